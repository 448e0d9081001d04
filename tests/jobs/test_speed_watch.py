"""Nodes that are slower than the job says: noticed from what their batches take, said, and planned around."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from benchmarks.wrong_speeds_table import Load, watched
from helix_df.errors import Infeasible
from helix_df.graph.compile import compile_problem, link_table
from helix_df.graph.problem import Link, LinkTable
from helix_df.layers import LayerRange
from helix_df.plan.plan import Plan
from helix_df.plan.takeover import takeover_of_plans
from helix_df.plan.violations import violations
from helix_df.rules import measured_links, measured_speed
from helix_df.runtime.worker import shell
from helix_df.spec.job import Job
from helix_df.what_if.changes import SetLink
from helix_df.what_if.measured_speeds import plan_measured, served_by_shares, with_links
from tests.runtime.tiny import tiny_plan

CURVES = {"prefill_ms": [[16, 20.0], [64, 40.0]], "decode_ms": [[1, 10.0], [4, 12.0]], "kv_tokens": [4096] * 4}
WHOLE = {"a": LayerRange(0, 4), "b": LayerRange(0, 2), "c": LayerRange(2, 4)}


def plan(replan_speeds: str = "auto", **runtime: object) -> Plan:
    return tiny_plan(
        WHOLE,
        gpus={"toy": {"memory": "1GiB", "profile": CURVES}},
        workload={"input_length": 40, "output_length": 16},
        runtime={
            "max_batch": 4,
            "max_prefill_tokens": 64,
            "port": 0,
            "replan_speeds": replan_speeds,
            "replan_bytes": "10MB",
            **runtime,
        },
        solver={"name": "auto", "time_limit": "2s"},
    )


def test_a_plan_by_measured_speeds_is_right_and_serves_more() -> None:
    given = plan()
    found = plan_measured(given, {"b": 0.2}, 10**7)
    assert violations(found.plan) == []
    assert found.plan.job.nodes["b"].speed == 0.2
    assert found.left < given.flow
    assert found.plan.flow > 1.1 * found.left
    with pytest.raises(Infeasible, match="serves more"):
        plan_measured(found.plan, {"b": 0.2}, 10**7)


def test_workers_go_on_where_only_a_speed_is_another() -> None:
    given = plan()
    slower = given.job.model_copy(
        update={"nodes": {n: d.model_copy(update={"speed": 0.5}) for n, d in given.job.nodes.items()}}
    )
    other = Plan(**{**{f: getattr(given, f) for f in given.__dataclass_fields__}, "job": slower})
    assert takeover_of_plans(given, other).coming == ()


@pytest.mark.parametrize("replan_speeds", ["auto", "tell"])
async def test_a_node_that_is_slower_than_declared_is_noticed(
    replan_speeds: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured_speed, "WINDOW_S", 4.0)
    monkeypatch.setattr(measured_speed, "LEAST_BUSY_S", 0.5)
    given = plan(replan_speeds)
    async with watched(given, {"a": 1.0, "b": 0.2, "c": 1.0}) as coordinator:
        load = Load(coordinator)
        clients = [asyncio.create_task(load.client(number)) for number in range(12)]
        end = "has taken over" if replan_speeds == "auto" else "another plan would serve more"
        deadline = time.monotonic() + 200
        while end not in coordinator.slower:
            assert time.monotonic() < deadline, f"it takes too long: {coordinator.slower}"
            await asyncio.sleep(0.1)
        assert coordinator.slower.startswith("b takes ")
        factor = float(coordinator.slower.split()[2])
        assert 3 < factor < 8
        changed = coordinator.running().plan
        assert (changed.flow != given.flow) == (replan_speeds == "auto")
        for one in clients:
            one.cancel()
        ended = await asyncio.gather(*clients, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in ended)


SLOW = SetLink(("b", "c"), 25e3, 0.03, one_way=True)


def test_a_plan_by_a_measured_link_is_right_and_serves_more() -> None:
    given = plan()
    problem = compile_problem(with_links(given.served, [SLOW]))
    assert problem.links.find("b", "c") == Link(25e3, 0.03)
    assert problem.links.find("c", "b") == compile_problem(given.served).links.find("c", "b")
    assert served_by_shares(compile_problem(given.served), given) == given.flow
    over = next(edge.tokens_per_s for edge in given.edges if (edge.tail, edge.head) == ("b", "c"))
    left = served_by_shares(problem, given)
    assert left == pytest.approx(given.flow * problem.link_capacity("b", "c") / over)
    found = plan_measured(given, {}, 10**7, [SLOW])
    assert violations(found.plan) == []
    assert found.left == left
    assert found.plan.flow > 1.1 * left
    with pytest.raises(Infeasible, match="serves more"):
        plan_measured(found.plan, {}, 10**7, [SLOW])


async def test_a_link_that_is_slower_than_declared_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers emulate other links than the job says: from b to c 0.4 Mbit/s and 30 ms, not 10 Gbit/s and 1 ms."""
    monkeypatch.setattr(measured_links, "WINDOW_S", 6.0)

    def truly(job: Job) -> LinkTable:
        table = link_table(job)
        return replace(table, by_node={**table.by_node, ("b", "c"): Link(50e3, 0.03)})

    monkeypatch.setattr(shell, "link_table", truly)
    given = plan(emulate=True)
    async with watched(given, {"a": 1.0, "b": 1.0, "c": 1.0}) as coordinator:
        load = Load(coordinator)
        clients = [asyncio.create_task(load.client(number)) for number in range(12)]
        deadline, before = time.monotonic() + 120, 0
        while "has taken over" not in coordinator.slower:
            assert time.monotonic() < deadline, f"it takes too long: {coordinator.slower}"
            if "b → c" in coordinator.slower and not before:
                before = load.tokens
                link = next(hop for hop in coordinator.snapshot().hops if (hop.tail, hop.head) == ("b", "c"))
            await asyncio.sleep(0.1)
        assert coordinator.slower.startswith("the link b → c carries 0.")
        assert link.bytes_per_s == pytest.approx(50e3, rel=0.4)
        assert link.latency_s is None or 0.02 < link.latency_s < 0.2
        changed = coordinator.running().plan
        assert set(changed.edges) != set(given.edges)
        for one in clients:
            one.cancel()
        ended = await asyncio.gather(*clients, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in ended)
