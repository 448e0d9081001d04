"""What a daemon does when whoever holds the job's secret tells it something: change its plan, drain a node, wind down.

Owns what is written down of a plan that has taken over, so that a coordinator after this one goes on with it. Doesn't
know HTTP or workers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from dataclasses import replace
from typing import Any, Protocol

from helix_df.errors import DeploymentError
from helix_df.plan.plan import Plan, read_plan, write_plan
from helix_df.plan.takeover import TakenOver, spares_document
from helix_df.runtime.jobs.directory import JobDirectory

log = logging.getLogger("helix_df.daemon")


class Changeable(Protocol):
    """A coordinator that can be told something."""

    token: str

    def begin_change(self, plan: Plan, without: Collection[str] = ()) -> None:
        """See ``Coordinator``."""
        ...

    def give_up_change(self, why: str) -> None:
        """See ``Coordinator``."""
        ...

    def running(self) -> TakenOver:
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
        self._changing = 0

    @property
    def busy(self) -> bool:
        """Whether another plan is about to take over."""
        return self._changing > 0

    def begin_change(self, plan: Plan) -> None:
        """See ``Control``."""
        self._deployment.begin_change(plan)
        log.info("another plan is to take over")
        self._on_nodes()
        self._start(self._change(plan))

    async def replace_plan(self, plan: Plan, without: frozenset[str]) -> None:
        """See ``Changer``."""
        self._deployment.begin_change(plan, without)
        self._on_nodes()
        timeout_s = plan.job.runtime.start_timeout
        late = asyncio.get_running_loop().call_later(
            timeout_s, self._deployment.give_up_change, f"its workers weren't up after {timeout_s:g} s"
        )
        try:
            await self._until_changed(plan)
        finally:
            late.cancel()

    def drain(self, node: str, *, undo: bool = False) -> None:
        """See ``Control``."""
        self._deployment.drain(node, undo=undo)
        log.info("%s %s", node, "gets requests again" if undo else "gets no new requests")

    def wind_down(self, grace_s: float) -> None:
        """See ``Control``."""
        log.info("no new requests; those that there are have %g s", grace_s)
        self._start(self._end(grace_s))

    async def _change(self, plan: Plan) -> None:
        try:
            await self._until_changed(plan)
        except DeploymentError as error:
            log.error("%s", error)
            return
        self._job.asked_plan_path.unlink(missing_ok=True)  # this is the one that was asked for
        log.info("another plan has taken over")

    async def _until_changed(self, plan: Plan) -> None:
        """Wait until a plan has taken over, and write down that it has."""
        self._changing += 1
        try:
            taken = await self._deployment.until_changed()
        finally:
            self._changing -= 1
            self._on_nodes()
        try:
            self._write_down(plan, taken)
        except OSError as error:
            log.error("the new plan can't be written down: %s", error)

    def _write_down(self, plan: Plan, taken: TakenOver) -> None:
        """A coordinator that dies in between leaves a plan and names that are those of before, or an older plan beside
        them, by which workers are refused and start anew."""
        job, identity = self._job, self._job.identity()
        if taken.spares and (identity is None or not identity.spares):
            write_plan(read_plan(job.plan_path), job.wanted_plan_path)
        write_plan(taken.plan, job.live_plan_path)
        if identity is not None:
            job.write_identity(replace(identity, names=dict(taken.names), spares=spares_document(taken.spares)))
        write_plan(plan, job.plan_path)
        if not taken.spares:
            job.wanted_plan_path.unlink(missing_ok=True)

    async def _end(self, grace_s: float) -> None:
        await self._deployment.until_done(grace_s)
        self._stop.set()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
