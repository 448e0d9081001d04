"""What a coordinator of a thousand workers doesn't do for each of them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_df.errors import DeploymentError
from helix_df.layers import LayerRange
from helix_df.rules.mended_flow import mended_flow
from helix_df.runtime.coordinator import requests_state
from helix_df.runtime.coordinator.state import CoordinatorState
from helix_df.runtime.jobs import daemon
from helix_df.runtime.wire.messages import HEARTBEAT_S, HEARTBEATS_PER_S, Heartbeat, Hello, Ready, heartbeat_s
from tests.runtime.tiny import tiny_plan, tiny_request

FOLD = 6
MANY = {
    f"{half}{copy}": layers
    for half, layers in (("a", LayerRange(0, 2)), ("b", LayerRange(2, 4)))
    for copy in range(FOLD)
}
LOST_AFTER_S = 3.0


def all_up() -> CoordinatorState:
    """Both halves of the model, six times each."""
    state = CoordinatorState(tiny_plan(MANY), 256)
    for number, name in enumerate(MANY):
        state.on_message(Hello(name, f"tcp://127.0.0.1:{9000 + number}", 1), 0.0)
        state.on_message(Ready(name, 4096, None, 1), 0.0)
    assert state.all_up
    return state


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A number more for each flow that is found."""
    made: list[int] = []

    def counted(*arguments):
        made.append(len(made))
        return mended_flow(*arguments)

    monkeypatch.setattr(requests_state, "mended_flow", counted)
    return made


def test_many_that_are_lost_at_once_are_one_flow(found: list[int]) -> None:
    state = all_up()
    for number in range(24):
        state.submit(tiny_request(number), 0.0)
    before = len(found)
    lost = [name for name in MANY if name[-1] in "0123"]
    for name in MANY:
        if name not in lost:
            state.on_message(Heartbeat(name, life=1), 2 * LOST_AFTER_S)
    state.tick(2 * LOST_AFTER_S)
    assert [name for name in MANY if not state.nodes_state.is_up(name)] == lost
    assert len(found) == before + 1
    state.validate()


def test_no_flow_is_found_to_say_whether_a_job_is_up(found: list[int]) -> None:
    state = CoordinatorState(tiny_plan(MANY), 256)
    for number, name in enumerate(MANY):
        assert state.snapshot().ready == (name[0] == "b" and name != "b0")
        state.on_message(Hello(name, f"tcp://127.0.0.1:{9000 + number}", 1), 0.0)
        state.on_message(Ready(name, 4096, None, 1), 0.0)
    assert state.snapshot().ready
    assert not found


def test_a_hop_that_is_cut_is_found_by_its_address() -> None:
    state = all_up()
    away = state.nodes_state.address("b3")
    state.on_message(Heartbeat("a1", life=1, unreachable=(away, "tcp://127.0.0.1:1")), 0.5)
    assert state.nodes_state.cut_hops() == {("a1", "b3")}
    assert state.snapshot().ready
    state.on_message(Heartbeat("a1", life=1), 1.0)
    assert not state.nodes_state.cut_hops()


@given(st.integers(0, 100_000), st.floats(0.5, 600.0))
def test_heartbeats_are_bounded_and_in_time(nodes: int, lost_after_s: float) -> None:
    pause_s = heartbeat_s(nodes, lost_after_s)
    assert pause_s == HEARTBEAT_S or pause_s <= lost_after_s / 6
    assert (
        math.isclose(nodes / pause_s, HEARTBEATS_PER_S)
        or nodes / pause_s < HEARTBEATS_PER_S
        or (pause_s >= lost_after_s / 6 * (1 - 1e-9))
    )


def test_a_limit_of_files_that_is_too_low_for_the_workers_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = tiny_plan(MANY)
    large = replace(plan, stages=5 * plan.stages)
    monkeypatch.setattr(daemon, "raise_descriptor_limit", lambda: 300)
    with pytest.raises(DeploymentError, match="too low for so many workers") as refused:
        daemon._connection_limits(large)
    assert "300 files, 60 workers" in str(refused.value)
    assert daemon._connection_limits(plan).connections == 300 - 3 * 12 - 128
    monkeypatch.setattr(daemon, "raise_descriptor_limit", lambda: 1000)
    assert daemon._connection_limits(large).connections == 1000 - 3 * 60 - 128
