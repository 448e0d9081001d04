"""What a daemon does when whoever holds the job's secret tells it something: change its plan, drain a node, wind down.

Owns what is written down of a plan that has taken over, so that a coordinator after this one goes on with it. Doesn't
know HTTP or workers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Protocol

from helix_df.errors import DeploymentError
from helix_df.plan.plan import Plan, write_plan
from helix_df.plan.takeover import TakenOver
from helix_df.runtime.jobs.directory import JobDirectory

log = logging.getLogger("helix_df.daemon")


class Changeable(Protocol):
    """A coordinator that can be told something."""

    token: str

    def begin_change(self, plan: Plan) -> None:
        """See ``Coordinator``."""
        ...

    async def until_changed(self) -> TakenOver:
        """See ``Coordinator``."""
        ...

    def drain(self, node: str, *, undo: bool = False) -> None:
        """See ``Coordinator``."""
        ...

    async def until_done(self, grace_s: float) -> None:
        """See ``Coordinator``."""
        ...


class Told:
    """The control of a job that runs in a folder; ``stop`` ends it.

    ``on_nodes`` is called when there are other nodes than before, some of which people may have to start.
    """

    def __init__(
        self, deployment: Changeable, job: JobDirectory, stop: asyncio.Event, on_nodes: Callable[[], None]
    ) -> None:
        self.secret = deployment.token
        self._deployment = deployment
        self._job = job
        self._stop = stop
        self._on_nodes = on_nodes
        self._tasks: set[asyncio.Task[None]] = set()

    def begin_change(self, plan: Plan) -> None:
        """See ``Control``."""
        self._deployment.begin_change(plan)
        log.info("another plan is to take over")
        self._on_nodes()
        self._start(self._note_change(plan))

    def drain(self, node: str, *, undo: bool = False) -> None:
        """See ``Control``."""
        self._deployment.drain(node, undo=undo)
        log.info("%s %s", node, "gets requests again" if undo else "gets no new requests")

    def wind_down(self, grace_s: float) -> None:
        """See ``Control``."""
        log.info("no new requests; those that there are have %g s", grace_s)
        self._start(self._end(grace_s))

    async def _note_change(self, plan: Plan) -> None:
        try:
            taken = await self._deployment.until_changed()
        except DeploymentError as error:
            log.error("%s", error)
            return
        log.info("another plan has taken over")
        self._on_nodes()
        identity = self._job.identity()
        try:
            write_plan(taken.plan, self._job.live_plan_path)
            if identity is not None:
                self._job.write_identity(replace(identity, names=dict(taken.names)))
            write_plan(plan, self._job.plan_path)
        except OSError as error:
            log.error("the new plan can't be written down: %s", error)

    async def _end(self, grace_s: float) -> None:
        await self._deployment.until_done(grace_s)
        self._stop.set()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
