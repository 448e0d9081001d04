"""Those who look after a job, over a coordinator that is none, and planners that have their plans already."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from helix_df.errors import DeploymentError
from helix_df.layers import LayerRange
from helix_df.plan.plan import Plan, read_plan, write_plan
from helix_df.plan.sizes import size_of, sized
from helix_df.plan.takeover import Spare, TakenOver
from helix_df.rules import measured_links, measured_speed
from helix_df.rules.measured_links import Ends, LinkSeen, LinkSpeed
from helix_df.runtime.jobs import scaler, speed_watch
from helix_df.runtime.jobs.directory import JobDirectory
from helix_df.runtime.jobs.scaler import Scaler
from helix_df.runtime.jobs.speed_watch import SpeedWatch
from helix_df.runtime.requests import JobStatus
from helix_df.spec.scale import Scale
from tests.api.fakes import READY
from tests.runtime.tiny import tiny_plan

HALVES = {"a": LayerRange(0, 2), "b": LayerRange(2, 4)}
WHOLE = {"a": LayerRange(0, 4)}
SCALE = {"nodes": ["b"], "queue_time": "1s", "up_after": "1s", "down_after": "2s", "average_over": "1s"}


class Coordinator:
    """Has a status and a plan that runs, and becomes what it is told to."""

    def __init__(self, plan: Plan, job: JobDirectory) -> None:
        self.scaled = self.slower = ""
        self.link_speeds: Mapping[Ends, LinkSpeed] = {}
        self.seen: dict[Ends, tuple[LinkSeen, float | None]] = {}
        self.busy = False
        self.refuses = False
        self.status = READY
        self.now = 0.0
        self.looks = self.rounds = 0
        self.said: list[str] = []
        self._job = job
        self.become(plan)

    def become(self, plan: Plan) -> None:
        self.taken = TakenOver(plan, {node: node for node in plan.job.nodes})
        write_plan(plan, self._job.plan_path)

    def snapshot(self) -> JobStatus:
        self.looks += 1
        return self.status

    def links_seen(self) -> Mapping[Ends, tuple[LinkSeen, float | None]]:
        return self.seen

    def running(self) -> TakenOver:
        self.rounds += 1
        return self.taken

    async def replace_plan(self, plan: Plan, without: frozenset[str]) -> None:
        assert not without
        self.said += [self.scaled, self.slower]
        if self.refuses:
            raise DeploymentError("its workers weren't up")
        self.become(plan)

    def clock(self) -> float:
        """Each look is half a second later."""
        self.now += 0.5
        return self.now


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobDirectory:
    monkeypatch.setattr(scaler, "LOOK_S", 0.001)
    monkeypatch.setattr(speed_watch, "LOOK_S", 0.001)
    directory = JobDirectory(tmp_path / "job")
    directory.path.mkdir()
    return directory


def planner(tmp_path: Path, code: str) -> tuple[str, ...]:
    program = tmp_path / "planner.py"
    program.write_text(f"import json, pathlib, shutil, sys\n{code}")
    return sys.executable, str(program)


async def until(condition: object, watcher: asyncio.Task[None]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # type: ignore[operator]
            assert not watcher.done(), watcher.exception()
            await asyncio.sleep(0.002)


async def until_more(there: Coordinator, watcher: asyncio.Task[None]) -> None:
    looks = there.looks
    await until(lambda: there.looks > looks + 2, watcher)


def sizes_of(whole: Plan) -> dict[int, Plan]:
    one = tiny_plan(WHOLE, nodes={"a": {"gpu": "toy"}, "b": {"gpu": "toy"}}, scale=SCALE)
    return {0: replace(one, job=sized(whole.job, 0), flow=100.0), 1: replace(whole, flow=200.0)}


async def test_steps_are_said_taken_and_given_up(
    job: JobDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tiny_plan(HALVES, scale=SCALE)
    plans = sizes_of(whole)
    for size, plan in plans.items():
        write_plan(plan, tmp_path / f"{size}.json")
    code = "\n".join(
        [
            f"for size in (1, 0): shutil.copy(f'{tmp_path}/{{size}}.json', sys.argv[2])",
            *(f"print(json.dumps({{'size': {size}, 'serves': {plan.flow}}}))" for size, plan in plans.items()),
            "print(json.dumps({'size': 2, 'why': 'no room'}), flush=True)",
        ]
    )
    monkeypatch.setattr(scaler, "PLANNER", planner(tmp_path, code))
    there = Coordinator(whole, job)
    there.refuses = True
    watching = asyncio.create_task(Scaler(there, job, there, there.clock).run())
    try:
        await until(lambda: there.scaled.startswith("given up (its workers weren't up): 1 → 0"), watching)
        there.refuses = False
        await until(lambda: size_of(there.taken.plan.job) == 0, watching)
        assert read_plan(job.asked_plan_path).flow == whole.flow
        there.status = replace(READY, asked_tokens=10, longest_wait_s=3.0)
        await until(lambda: there.scaled.startswith("0 → 1"), watching)
        assert any(
            said.startswith("about to take over: 0 → 1 nodes that come and go: a request") for said in there.said
        )
        there.status = replace(READY, state="degraded")
        await until_more(there, watching)
        before = there.now
        await until_more(there, watching)
        assert there.now == before, "while nodes are lost nothing is measured"
        there.status = READY
        there.taken = replace(there.taken, spares={"b": Spare(whole.stages[1], whole.job)})
        await until_more(there, watching)
        assert there.now == before
        there.become(tiny_plan(HALVES))
        rounds, looks = there.rounds, there.looks
        await until(lambda: there.rounds > rounds + 5, watching)
        assert there.looks <= looks + 1, "a job whose nodes stay is left alone"
    finally:
        watching.cancel()
    assert Scale.model_validate(SCALE).named(["a", "b"]) == ("b",)


@pytest.mark.parametrize("choice", ["tell", "auto"])
async def test_slower_nodes_are_said_and_planned_around(
    choice: str, job: JobDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured_speed, "WINDOW_S", 2.0)
    monkeypatch.setattr(measured_speed, "LEAST_BUSY_S", 0.1)
    plan = tiny_plan(HALVES, runtime={"max_batch": 4, "max_prefill_tokens": 16, "port": 0, "replan_speeds": choice})
    other = replace(plan, flow=plan.flow / 2)
    write_plan(other, tmp_path / "other.json")
    found = f"shutil.copy('{tmp_path}/other.json', sys.argv[2]); print(json.dumps({{'found': 'b less'}}))"
    monkeypatch.setattr(speed_watch, "PLANNER", planner(tmp_path, found))
    there = Coordinator(plan, job)
    node = replace(READY.nodes[0], role="serving", state="ready")
    took = {"a": 1.0, "b": 4.0}

    def snapshot() -> JobStatus:
        nodes = (
            replace(node, name=name, busy_s=there.now * factor, planned_busy_s=there.now)
            for name, factor in took.items()
        )
        return replace(READY, nodes=tuple(nodes))

    monkeypatch.setattr(there, "snapshot", snapshot)
    watching = asyncio.create_task(SpeedWatch(there, job, there, there.clock).run())
    try:
        words = "b takes 4.0 times as long as planned"
        if choice == "tell":
            await until(lambda: "would serve more (b less)" in there.slower, watching)
            assert there.slower.startswith(words)
            took["b"] = 1.0
            await until(lambda: there.slower == "", watching)
            monkeypatch.setattr(
                speed_watch, "PLANNER", planner(tmp_path, "print(json.dumps({'why': 'none is better'}))")
            )
            took["b"] = 4.0
            await until(lambda: there.slower.endswith("; none is better"), watching)
            assert there.taken.plan is plan
        else:
            await until(lambda: there.slower.endswith("has taken over (b less)"), watching)
            assert there.taken.plan.flow == other.flow
            assert read_plan(job.asked_plan_path).flow == plan.flow
            assert any("is about to take over (b less)" in said for said in there.said)
    finally:
        watching.cancel()


@pytest.mark.parametrize("choice", ["tell", "auto"])
async def test_slower_links_are_said_and_planned_around(
    choice: str, job: JobDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link from a to b has a tenth of its rate, and takes longer than 1 ms by a clock that is 7 s ahead."""
    monkeypatch.setattr(measured_links, "WINDOW_S", 2.0)
    plan = tiny_plan(HALVES, runtime={"max_batch": 4, "max_prefill_tokens": 16, "port": 0, "replan_speeds": choice})
    other = replace(plan, flow=plan.flow / 2)
    write_plan(other, tmp_path / "other.json")
    write_plan(plan, tmp_path / "plan.json")
    asked = tmp_path / "asked"
    found = (
        f"open('{asked}', 'w').write(' '.join(sys.argv[3:])); shutil.copy('{tmp_path}/other.json', sys.argv[2]);"
        "print(json.dumps({'found': 'b less'}))"
    )
    monkeypatch.setattr(speed_watch, "PLANNER", planner(tmp_path, found))
    there = Coordinator(plan, job)
    rate = {"now": 125e6}
    counts = {"bundles": 0, "bytes": 0, "took": 0.0}

    def links_seen() -> Mapping[Ends, tuple[LinkSeen, float | None]]:
        counts["bundles"] += 4
        counts["bytes"] += 4_000_000
        counts["took"] += 4_000_000 / rate["now"]  # of half a second
        seen = LinkSeen("a", 7.021, 0, int(counts["bundles"]), int(counts["bytes"]), counts["took"])
        return {("a", "b"): (seen, 7.0), ("a", "gone"): (seen, None)}

    monkeypatch.setattr(there, "links_seen", links_seen)
    watching = asyncio.create_task(SpeedWatch(there, job, there, there.clock).run())
    words = "the link a → b carries 1,000 Mbit/s instead of 10,000 and takes 21 ms instead of 1"
    try:
        if choice == "tell":
            await until(lambda: "would serve more (b less)" in there.slower, watching)
            assert there.slower.startswith(words)
            assert asked.read_text().split()[:5] == ["--link", "a", "b", "1.25e+08", "0.021"]
            measured = there.link_speeds["a", "b"]
            assert measured.bytes_per_s == pytest.approx(125e6)
            assert measured.latency_s == pytest.approx(0.021)
        else:
            await until(lambda: there.slower.endswith("has taken over (b less)"), watching)
            assert there.slower.startswith(words)
            assert there.taken.plan.flow == other.flow
            assert read_plan(job.asked_plan_path).flow == plan.flow
    finally:
        watching.cancel()
