"""Requests on ways of the job's own choosing: answered alike, and over the nodes that the scheduler is for."""

from __future__ import annotations

import asyncio

import pytest

from helix_df.layers import LayerRange
from helix_df.plan.plan import Plan
from helix_df.rules.schedulers.registry import SERVING
from helix_df.runtime.coordinator.shell import context_of
from helix_df.runtime.coordinator.state import CoordinatorState
from helix_df.runtime.jobs.coordinators import new_coordinator
from helix_df.runtime.wire.messages import Forward, Hello, Ready, Send
from tests.runtime.tiny import answer, tiny_plan, tiny_request

TWINS = {"a1": LayerRange(0, 2), "a2": LayerRange(0, 2), "b1": LayerRange(2, 4), "b2": LayerRange(2, 4)}


def plan_for(scheduler: str) -> Plan:
    nodes = {name: {"gpu": "toy", "speed": 0.2 if name.endswith("2") else 1.0} for name in TWINS}
    runtime = {"max_batch": 4, "max_prefill_tokens": 16, "port": 0, "scheduler": scheduler}
    return tiny_plan(TWINS, nodes=nodes, runtime=runtime)


async def tokens(scheduler: str) -> list[list[int | None]]:
    coordinator = new_coordinator(plan_for(scheduler), embedded=True)
    await coordinator.start()
    try:
        await coordinator.wait_ready(120)
        answers = await asyncio.gather(*(answer(coordinator, tiny_request(index, max_tokens=5)) for index in range(8)))
        return [[event.token for event in events] for events in answers]
    finally:
        await coordinator.close()


async def test_the_way_never_changes_an_answer() -> None:
    expected = await tokens("flow")
    for scheduler in SERVING:
        assert await tokens(scheduler) == expected, scheduler


def first_hops(scheduler: str, count: int) -> list[str]:
    """Where requests that all stay under way begin, on a job whose workers are up."""
    plan = plan_for(scheduler)
    state = CoordinatorState(plan, context_of(plan))
    for name in state.nodes:
        state.on_message(Hello(name, f"local://{name}", 1), 0.0)
        state.on_message(Ready(name, 4096), 0.0)
    sent = [action for index in range(count) for action in state.submit(tiny_request(1, id=f"r{index}"), 0.0)]
    return [
        action.address.removeprefix("local://")
        for action in sent
        if isinstance(action, Send) and isinstance(action.message, Forward) and action.message.route is not None
    ]


@pytest.mark.parametrize(("scheduler", "to_the_slow"), [("flow", 2), ("shortest-queue", 6)])
def test_flow_knows_speeds_and_the_shortest_queue_does_not(scheduler: str, to_the_slow: int) -> None:
    hops = first_hops(scheduler, 12)
    assert len(hops) == 12
    assert hops.count("a2") == to_the_slow


def test_random_follows_from_the_seed() -> None:
    hops = first_hops("random", 40)
    assert hops == first_hops("random", 40)
    assert 8 <= hops.count("a2") <= 32
