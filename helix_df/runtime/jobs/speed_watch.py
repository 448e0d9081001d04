"""Compares what batches took with what they were planned to take, and has a job planned by the speeds that nodes have.

Owns when another plan is looked for, and what is said of it. It is made in a process of its own, which may search; this
one serves.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from helix_df.errors import HelixError
from helix_df.plan.plan import Plan, read_plan, write_plan
from helix_df.plan.takeover import TakenOver
from helix_df.rules.measured_speed import Busy, MeasuredSpeeds, differing
from helix_df.runtime.jobs.directory import JobDirectory
from helix_df.runtime.jobs.planner import Changer, planned_aside
from helix_df.runtime.requests import JobStatus

log = logging.getLogger("helix_df.daemon")

PLANNER = (sys.executable, "-m", "helix_df.what_if.measured_speeds")
LOOK_S = 1.0


class SpeedWatched(Protocol):
    """A coordinator whose plan can be replaced; ``slower`` is shown in its status."""

    slower: str

    def snapshot(self) -> JobStatus:
        """See ``TokenService``."""
        ...

    def running(self) -> TakenOver:
        """See ``Coordinator``."""
        ...


class SpeedWatch:
    """Looks after one job that runs in a folder; ``clock`` is in seconds."""

    def __init__(
        self, deployment: SpeedWatched, job: JobDirectory, changer: Changer, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._deployment = deployment
        self._job = job
        self._changer = changer
        self._clock = clock
        self._measured = MeasuredSpeeds()
        self._tried: dict[str, float] = {}

    async def run(self) -> None:
        """Look at the nodes until this is cancelled."""
        seen: TakenOver | None = None
        plan: Plan | None = None
        while True:
            await asyncio.sleep(LOOK_S)
            if self._changer.busy:
                continue
            running = self._deployment.running()
            if plan is None or running != seen:
                seen, plan = running, read_plan(self._job.plan_path)
                self._measured, self._tried = MeasuredSpeeds(), {}
            try:
                await self._look(plan, running)
            except (HelixError, OSError, ValueError, KeyError) as error:
                self._say(f"the job can't be planned by measured speeds: {error}")

    async def _look(self, plan: Plan, running: TakenOver) -> None:
        """Say which nodes differ, and what another plan would give, once they do."""
        status = self._deployment.snapshot()
        node_of = {worker: node for node, worker in running.names.items()}
        busy = {
            node_of[one.name]: Busy(one.busy_s, one.planned_busy_s)
            for one in status.nodes
            if one.name in node_of and one.role == "serving" and one.state == "ready"
        }
        planned = {node: plan.job.nodes[node].speed for node in busy}
        found = differing(self._measured.look(busy, self._clock()), planned)
        if not found:
            if self._tried and not running.spares:
                self._tried = {}
                self._say("")
            return
        if not differing(found, {node: self._tried.get(node, planned[node]) for node in found}):
            return  # it was looked for already
        self._tried = found
        if status.state == "ready" and not running.spares:
            await self._plan_by(found, planned, plan)

    async def _plan_by(self, speeds: Mapping[str, float], planned: Mapping[str, float], plan: Plan) -> None:
        what = _words(speeds, planned)
        self._say(f"{what}: a plan by what was measured is being made")
        command = [*PLANNER, str(self._job.plan_path), str(self._job.path / "plan.measured.json")]
        for node, speed in sorted(speeds.items()):
            command += ["--speed", f"{node}={speed:.4g}"]
        before = self._deployment.running()
        other, words = await planned_aside(command, self._job.path / "plan.measured.json", plan.job)
        if other is None:
            self._say(f"{what}; {words}")
        elif plan.job.runtime.replan_speeds == "tell":
            self._say(
                f"{what}; another plan would serve more ({words}), and take over under runtime.replan_speeds: auto"
            )
        elif self._deployment.running() == before and not self._changer.busy:
            self._say(f"{what}: another plan is about to take over ({words})")
            if not self._job.asked_plan_path.exists():
                write_plan(plan, self._job.asked_plan_path)
            await self._changer.replace_plan(other, frozenset())
            self._say(f"{what}: another plan has taken over ({words})")

    def _say(self, words: str) -> None:
        self._deployment.slower = words
        if words:
            log.info("%s", words)


def _words(speeds: Mapping[str, float], planned: Mapping[str, float]) -> str:
    """How far each node is from what was planned with, in times."""

    def one(node: str) -> str:
        factor = planned[node] / speeds[node]
        return f"{node} takes {factor:.1f} times as long as planned" if factor > 1 else f"{node} is fast again"

    return ", ".join(map(one, sorted(speeds)))
