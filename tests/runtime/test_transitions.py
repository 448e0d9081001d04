"""The machines' tables are whole, and what isn't in them is counted, told and survived."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from helix_df.errors import DeploymentError
from helix_df.layers import LayerRange
from helix_df.runtime.coordinator.nodes_state import NODE
from helix_df.runtime.coordinator.request import REQUEST, RequestState
from helix_df.runtime.requests import NodeState
from helix_df.runtime.transitions import IllegalEvent, IllegalEventSeen, TransitionTable
from helix_df.runtime.wire.framing import decode, encode
from helix_df.runtime.wire.messages import (
    Failed,
    Forward,
    Heartbeat,
    Hello,
    Loading,
    Message,
    Ready,
    Rejected,
    Release,
    Sampled,
    Stop,
)
from helix_df.runtime.wire.transport import listen
from helix_df.runtime.worker.shell import Worker
from helix_df.runtime.worker.state import HELD, HeldState
from property_tests.runtime_world import World, toy_answer, toy_plan

STATES = [(REQUEST, RequestState), (NODE, NodeState), (HELD, HeldState)]


@pytest.mark.parametrize(("table", "states"), STATES, ids=lambda value: getattr(value, "role", ""))
def test_every_state_has_a_row_and_can_be_reached(table: TransitionTable, states: object) -> None:
    assert set(table.rows) == set(get_args(states))
    reached, frontier = {table.start}, [table.start]
    while frontier:
        new = set(table.rows[frontier.pop()].values()) - reached
        reached |= new
        frontier += new
    assert reached == set(table.rows)


@pytest.mark.parametrize(("table", "states"), STATES, ids=lambda value: getattr(value, "role", ""))
def test_a_drawing_has_every_transition(table: TransitionTable, states: object) -> None:
    arrows = [line.strip() for line in table.mermaid().splitlines()[2:]]
    drawn = {
        (ends.split(" --> ")[0], event, ends.split(" --> ")[1])
        for ends, _, events in (arrow.partition(": ") for arrow in arrows)
        for event in events.split(", ")
    }
    assert drawn == {(state, event, to) for state, row in table.rows.items() for event, to in row.items()}


@pytest.mark.parametrize(("table", "states"), STATES, ids=lambda value: getattr(value, "role", ""))
def test_the_docs_draw_the_tables(table: TransitionTable, states: object) -> None:
    page = Path(__file__).parents[2] / "docs" / "architecture.md"
    assert f"```mermaid\n{table.mermaid()}\n```" in page.read_text("utf-8"), "`just generate` draws them"


def test_an_illegal_event_names_role_state_and_event() -> None:
    with pytest.raises(IllegalEvent, match=r"node a is waiting(.|\n)*found:\s+silence(.|\n)*hello or exit"):
        NODE.after("waiting", "silence", "a")


def two_stages() -> World:
    return World(toy_plan({"a": LayerRange(0, 1), "b": LayerRange(1, 2)}, 2, 64, prefix_cache=False))


@pytest.mark.parametrize(
    "message",
    [
        Sampled("r0/1", 9, 3, None),
        Sampled("r0/7", 4, 3, None),
        Sampled("nobody", 4, 3, None),
        Rejected("r0/99", "a", "kv_full"),
        Ready("nowhere", 10),
        Loading("a", "loading", 0.5, ""),
        Heartbeat("nowhere"),
        Failed("nowhere", "broken"),
        Stop(),
    ],
)
def test_the_coordinator_counts_what_cannot_be_and_goes_on(message: Message) -> None:
    world = two_stages()
    name = world.submit((1, 2, 3, 4), 6)
    seen, *freed = world.coordinator.on_message(message, 0.0)
    assert isinstance(seen, IllegalEventSeen)
    # What somebody else began on the workers is freed there.
    is_ghost = message == Sampled("nobody", 4, 3, None)
    assert [getattr(one, "message", one) for one in freed] == [Release("nobody")] * (2 * is_ghost)
    assert world.coordinator.snapshot().illegal_events == 1
    world.settle()
    assert world.answers[name] == toy_answer(world.asked[name], 2)


def test_a_worker_counts_what_cannot_be_and_goes_on() -> None:
    world = two_stages()
    name = world.submit((1, 2, 3, 4), 6)
    (wire,) = [wire for wire in world.busy_wires() if wire[1].startswith("toy://a")]
    first = decode(world.wires[wire][0], "secret")
    assert isinstance(first, Forward)
    assert first.route is not None
    world.deliver(wire)
    state = world.workers[wire[1]].state
    assert state is not None
    elsewhere = replace(first.route, hops=first.route.hops[1:], addresses=first.route.addresses[1:])
    wrong = [
        first,
        Forward(first.request, 9, True, None, np.zeros(1, np.int32)),
        replace(first, request="x/2", route=elsewhere),
    ]
    for count, message in enumerate(wrong, start=1):
        (seen,) = state.on_forward(message)
        assert isinstance(seen, IllegalEventSeen)
        assert state.illegal.total == count
    world.settle()
    assert world.answers[name] == toy_answer(world.asked[name], 2)


def test_the_same_mistake_again_and_again_is_told_ever_more_rarely() -> None:
    world = two_stages()
    seen = [world.coordinator.on_message(Stop(), 0.0)[0] for _ in range(100)]
    told = [action for action in seen if isinstance(action, IllegalEventSeen) and action.is_news]
    assert [action.times for action in told] == [
        1,
        2,
        4,
        8,
        16,
        32,
        64,
    ]


def test_a_worker_that_is_refused_leaves_the_one_that_serves_alone() -> None:
    coordinator, endpoint = listen("local://*"), listen("local://*")

    def nothing(*_: object) -> None:
        raise AssertionError("a refused worker builds no engine")

    worker = Worker("a", endpoint, coordinator.address, "t", nothing)
    endpoint_address = endpoint.address
    ended: list[BaseException] = []

    def run() -> None:
        try:
            worker.run()
        except DeploymentError as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    hello = decode(coordinator.receive(10)[0], "t")
    assert isinstance(hello, Hello)
    for life in (0, hello.life + 1, hello.life):
        coordinator.send(endpoint_address, encode(Failed("a", f"another worker serves this node: {life}", life), "t"))
    thread.join(30)
    heard = [decode(frames, "t").TAG for frames in coordinator.receive(0)]
    coordinator.close()
    assert f"another worker serves this node: {hello.life}" in str(ended[0])
    assert set(heard) <= {"hello"}


def test_a_job_that_is_closed_runs_nothing_any_more() -> None:
    world = World(toy_plan({"a": LayerRange(0, 2)}, 2, kv_tokens=60))
    name = world.submit((1, 2, 3), 5)
    assert world.coordinator.requests_state.running == 1
    world._coordinate(world.recorded.stop())
    assert name in world.aborted
    assert world.coordinator.requests_state.running == 0
    assert not any(world.coordinator.requests_state.running_on.values())
