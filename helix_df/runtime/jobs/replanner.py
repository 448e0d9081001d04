"""Has a job planned anew that has lost nodes for long, and lets it go back to its own plan once they are back.

Owns when, and what is said of it. The plan is made in a process of its own, which may search; this one serves.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable
from typing import Protocol

from helix_df.errors import DeploymentError, HelixError
from helix_df.plan.plan import Plan, read_plan
from helix_df.plan.takeover import TakenOver
from helix_df.runtime.jobs.directory import JobDirectory
from helix_df.runtime.jobs.losses import Losses
from helix_df.runtime.jobs.planner import Changer, planned_aside
from helix_df.runtime.requests import JobStatus, NodeState, some

log = logging.getLogger("helix_df.daemon")

PLANNER = (sys.executable, "-m", "helix_df.what_if.without_nodes")
LOOK_S = 0.5


class Replannable(Protocol):
    """A coordinator whose plan can be replaced; ``replanned`` is shown in its status."""

    replanned: str

    def snapshot(self) -> JobStatus:
        """See ``TokenService``."""
        ...

    def running(self) -> TakenOver:
        """See ``Coordinator``."""
        ...


class Replanner:
    """Looks after one job that runs in a folder; ``clock`` is in seconds."""

    def __init__(
        self,
        deployment: Replannable,
        job: JobDirectory,
        changer: Changer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._deployment = deployment
        self._job = job
        self._changer = changer
        self._clock = clock
        self._losses = Losses()

    async def run(self) -> None:
        """Look at the nodes until this is cancelled."""
        self._say_spares()
        while True:
            await asyncio.sleep(LOOK_S)
            wanted = self._look()
            if wanted is None:
                continue
            try:
                await self._go_for(wanted)
            except (HelixError, OSError, ValueError, KeyError) as error:
                self._give_up(wanted, f"the job can't be planned anew: {error}")

    def _look(self) -> frozenset[str] | None:
        """The nodes that the job should do without, if that is another matter than now."""
        status, now = self._deployment.snapshot(), self._deployment.running()
        runtime = now.plan.job.runtime
        if runtime.replan_after is None or self._changer.busy:
            return None
        if status.state not in ("ready", "degraded"):
            return None
        by_worker = {node.name: node.state for node in status.nodes if node.role in ("serving", "spare")}
        worker_of = {**now.names, **{node: spare.stage.node for node, spare in now.spares.items()}}
        states: dict[str, NodeState] = {
            node: by_worker[worker] for node, worker in worker_of.items() if worker in by_worker
        }
        return self._losses.look(states, now.spares.keys(), runtime.replan_after, self._clock())

    async def _go_for(self, wanted: frozenset[str]) -> None:
        """Let a plan take over that does without these nodes, if there is one that is worth it."""
        before = self._deployment.running()
        if not wanted:
            await self._take_over(read_plan(self._job.wanted_plan_path), wanted, before, "all of its nodes are back")
            return
        self._say(f"{_are_lost(wanted)}: a plan without is being made")
        found, words = await self._planned(wanted, before)
        if self._deployment.running() != before or self._changer.busy or self._look() != wanted:
            self._say_spares()
            return  # much has happened meanwhile
        if found is None:
            self._give_up(wanted, f"no other plan takes over: {words}")
            return
        await self._take_over(found, wanted, before, words)

    async def _take_over(self, plan: Plan, wanted: frozenset[str], before: TakenOver, words: str) -> None:
        why = f"{_are_lost(wanted)}: a plan without" if wanted else "the plan of before"
        self._say(f"{why} is about to take over ({words})")
        try:
            await self._changer.replace_plan(plan, wanted)
        except DeploymentError as error:
            self._give_up(wanted, f"{error.problem}{'' if error.found is None else f': {error.found}'}")
            return
        self._losses.done(wanted, before.spares)
        log.info("%s has taken over (%s)", why, words)
        self._deployment.replanned = "" if not wanted else f"{why} has taken over ({words}); {self._until(wanted)}"

    def _until(self, wanted: frozenset[str]) -> str:
        after_s = self._deployment.running().plan.job.runtime.replan_after or 0.0
        stay_s = max(self._losses.stay_s(node, after_s) for node in wanted)
        return f"the plan of before does again once all of its nodes have served for {stay_s:g} s"

    def _give_up(self, wanted: frozenset[str], words: str) -> None:
        self._losses.give_up(wanted)
        what = f"{_are_lost(wanted)}, and " if wanted else "all nodes are back, but "
        self._deployment.replanned = f"{what}{words}"
        log.warning("%s", self._deployment.replanned)

    def _say(self, words: str) -> None:
        self._deployment.replanned = words
        log.info("%s", words)

    def _say_spares(self) -> None:
        spares = frozenset(self._deployment.running().spares)
        self._deployment.replanned = f"{_are_lost(spares)}: {self._until(spares)}" if spares else ""

    async def _planned(self, wanted: frozenset[str], before: TakenOver) -> tuple[Plan | None, str]:
        """A plan without these nodes and what it changes; or none, and why."""
        job, out = self._job, self._job.path / "plan.without.json"
        command = [
            *PLANNER,
            str(job.wanted_plan_path if before.spares else job.plan_path),
            str(job.plan_path),
            str(out),
        ]
        for node in sorted(wanted):
            command += ["--without", node]
        return await planned_aside(command, out, before.plan.job)


def _are_lost(nodes: frozenset[str]) -> str:
    return f"{', '.join(some(sorted(nodes)))} {'is' if len(nodes) == 1 else 'are'} lost"
