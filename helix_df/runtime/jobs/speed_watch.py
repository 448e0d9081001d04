"""Compares what batches and links do with what was planned, and has a job planned by what nodes and links really do.

Owns when another plan is looked for, and what is said of it. It is made in a process of its own, which may search; this
one serves.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from helix_df.errors import HelixError
from helix_df.graph.compile import link_table
from helix_df.graph.problem import Link
from helix_df.plan.plan import Plan, read_plan, write_plan
from helix_df.plan.takeover import TakenOver
from helix_df.rules.measured_links import Ends, LinkSeen, LinkSpeed, MeasuredLinks
from helix_df.rules.measured_links import differing as links_differing
from helix_df.rules.measured_links import is_news as links_are_news
from helix_df.rules.measured_speed import Busy, MeasuredSpeeds, differing
from helix_df.runtime.jobs.directory import JobDirectory
from helix_df.runtime.jobs.planner import Changer, planned_aside
from helix_df.runtime.requests import JobStatus

log = logging.getLogger("helix_df.daemon")

PLANNER = (sys.executable, "-m", "helix_df.what_if.measured_speeds")
LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class Drift:
    """Nodes and links that aren't what a plan was made with, and what they are."""

    nodes: Mapping[str, float] = field(default_factory=dict)
    links: Mapping[Ends, Link] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.nodes or self.links)

    def is_news(self, before: Drift, plan: Plan) -> bool:
        """Whether a plan for what was found ``before`` needn't be one for this."""
        known = {node: before.nodes.get(node, plan.job.nodes[node].speed) for node in self.nodes}
        return bool(differing(self.nodes, known)) or links_are_news(self.links, before.links)

    def arguments(self) -> list[str]:
        """Of a planner's process."""
        found: list[str] = []
        for node, speed in sorted(self.nodes.items()):
            found += ["--speed", f"{node}={speed:.4g}"]
        for ends, link in sorted(self.links.items()):
            found += ["--link", *ends, f"{link.bytes_per_s:.4g}", f"{link.latency_s:.4g}"]
        return found

    def words(self, plan: Plan) -> str:
        """How far each of them is from what was planned with."""
        table = link_table(plan.job)
        planned = [(ends, link, table.find(*ends)) for ends, link in sorted(self.links.items())]
        return ", ".join(
            [
                *(_of_node(node, plan.job.nodes[node].speed / speed) for node, speed in sorted(self.nodes.items())),
                *(_of_link(ends, link, before) for ends, link, before in planned if before is not None),
            ]
        )


class SpeedWatched(Protocol):
    """A coordinator whose plan can be replaced; ``slower`` and ``link_speeds`` are shown in its status."""

    slower: str
    link_speeds: Mapping[Ends, LinkSpeed]

    def links_seen(self) -> Mapping[Ends, tuple[LinkSeen, float | None]]:
        """See ``Coordinator``."""
        ...

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
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._measured, self._links = MeasuredSpeeds(), MeasuredLinks()
        self._tried = Drift()

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
                self._begin_anew()
            try:
                await self._look(plan, running)
            except (HelixError, OSError, ValueError, KeyError) as error:
                self._say(f"the job can't be planned by what was measured: {error}")

    async def _look(self, plan: Plan, running: TakenOver) -> None:
        """Say which nodes and links differ, and what another plan would give, once they do."""
        now = self._clock()
        found = Drift(self._nodes(plan, running, now), self._linked(plan, running, now))
        if not found:
            if self._tried and not running.spares:
                self._tried = Drift()
                self._say("")
            return
        if not found.is_news(self._tried, plan):
            return  # it was looked for already
        self._tried = found
        if self._deployment.snapshot().state == "ready" and not running.spares:
            await self._plan_by(found, plan)

    def _nodes(self, plan: Plan, running: TakenOver, now: float) -> dict[str, float]:
        """The speeds of nodes that differ."""
        node_of = {worker: node for node, worker in running.names.items()}
        busy = {
            node_of[one.name]: Busy(one.busy_s, one.planned_busy_s)
            for one in self._deployment.snapshot().nodes
            if one.name in node_of and one.role == "serving" and one.state == "ready"
        }
        return differing(self._measured.look(busy, now), {node: plan.job.nodes[node].speed for node in busy})

    def _linked(self, plan: Plan, running: TakenOver, now: float) -> dict[Ends, Link]:
        """The links that differ; what all of them do is shown."""
        node_of = {worker: node for node, worker in running.names.items()}
        table = link_table(plan.job)
        seen: dict[Ends, LinkSeen] = {}
        apart_s: dict[Ends, float] = {}
        planned: dict[Ends, Link] = {}
        for (tail, head), (link, clocks_s) in self._deployment.links_seen().items():
            if tail not in node_of or head not in node_of:
                continue
            ends = node_of[tail], node_of[head]
            declared = table.find(*ends)
            if declared is not None:
                seen[ends], planned[ends] = link, declared
                if clocks_s is not None:
                    apart_s[ends] = clocks_s
        measured = self._links.look(seen, apart_s, now)
        self._deployment.link_speeds = {
            (running.names[tail], running.names[head]): link for (tail, head), link in measured.items()
        }
        return links_differing(measured, planned, self._declared(planned)) if measured else {}

    def _declared(self, planned: Mapping[Ends, Link]) -> dict[Ends, Link]:
        """The same links as whoever asked for the job declared them: the plan may be one by what was measured."""
        if not self._job.asked_plan_path.exists():
            return dict(planned)
        table = link_table(read_plan(self._job.asked_plan_path).job)
        known = table.regions.keys()
        return {ends: (table.find(*ends) if known >= set(ends) else None) or link for ends, link in planned.items()}

    async def _plan_by(self, drift: Drift, plan: Plan) -> None:
        what = drift.words(plan)
        self._say(f"{what}: a plan by what was measured is being made")
        command = [*PLANNER, str(self._job.plan_path), str(self._job.path / "plan.measured.json"), *drift.arguments()]
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


def _of_node(node: str, factor: float) -> str:
    return f"{node} takes {factor:.1f} times as long as planned" if factor > 1 else f"{node} is fast again"


def _of_link(ends: Ends, link: Link, planned: Link) -> str:
    """Its rate and its latency, as far as they differ."""
    said = []
    if link.bytes_per_s != planned.bytes_per_s:
        said.append(f"carries {_megabits(link)} Mbit/s instead of {_megabits(planned)}")
    if link.latency_s != planned.latency_s:
        said.append(f"takes {1e3 * link.latency_s:.3g} ms instead of {1e3 * planned.latency_s:.3g}")
    return f"the link {ends[0]} → {ends[1]} {' and '.join(said)}"


def _megabits(link: Link) -> str:
    return f"{float(f'{8e-6 * link.bytes_per_s:.3g}'):,g}"
