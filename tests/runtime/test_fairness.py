"""Requests of several API keys are started in turn, and no key holds up another or fills the queue."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from helix_df.errors import RequestError
from helix_df.layers import LayerRange
from helix_df.runtime.coordinator.actions import CoordinatorAction
from helix_df.runtime.requests import GenerationRequest
from helix_df.runtime.sampling import SamplingParams
from helix_df.runtime.wire.messages import Forward, Sampled, Send
from helix_df.runtime.worker.state import WorkerAction
from property_tests.runtime_world import World, toy_plan

WHOLE = {"a": LayerRange(0, 2)}


def world(max_queue: int) -> World:
    """Room for one request at a time, of 40 tokens."""
    return World(toy_plan(WHOLE, 2, 64, prefix_cache=False, max_queue=max_queue))


def long(name: str, owner: str | None) -> GenerationRequest:
    return GenerationRequest(name, tuple(range(40)), 1, SamplingParams(), owner=owner)


def started(actions: Iterable[CoordinatorAction | WorkerAction]) -> list[str]:
    sent = (action.message for action in actions if isinstance(action, Send))
    return [message.request for message in sent if isinstance(message, Forward) and message.route]


def submit(there: World, owner: str | None) -> str:
    return there.submit(tuple(range(40)), 1, owner)


def test_one_request_waits_for_one_of_a_thousand_of_another_key() -> None:
    coordinator = world(max_queue=4000).coordinator
    (running,) = started([action for at in range(1001) for action in coordinator.submit(long(f"m{at}", "busy"), 0.0)])
    assert coordinator.submit(long("one", "quiet"), 0.0) == []
    order = list[str]()
    for _ in range(4):
        (running,) = started(coordinator.on_message(Sampled(running, 40, 5, None), 1.0))
        order.append(running.partition("/")[0])
    assert order == ["m1", "one", "m2", "m3"]


def test_a_key_has_half_of_the_queue_at_most_and_is_told_so() -> None:
    there = world(max_queue=8)
    submit(there, "busy")
    for _ in range(4):
        submit(there, "busy")
    with pytest.raises(RequestError) as refused:
        submit(there, "busy")
    assert (refused.value.status, refused.value.code) == (429, "key_queue_full")
    for owner in ("quiet", "quiet", "other"):
        submit(there, owner)
    requests = there.coordinator.requests_state
    assert [requests.waiting_of(owner) for owner in ("busy", "quiet", "other", "nobody")] == [4, 2, 1, 0]
    with pytest.raises(RequestError) as refused:
        submit(there, "quiet")
    assert refused.value.code == "key_queue_full"
    submit(there, "new")
    with pytest.raises(RequestError) as refused:
        submit(there, "yet another")
    assert refused.value.code == "queue_full"


def test_without_keys_the_whole_queue_is_everybodys() -> None:
    there = world(max_queue=8)
    for _ in range(9):
        submit(there, None)
    with pytest.raises(RequestError) as refused:
        submit(there, None)
    assert refused.value.code == "queue_full"


def test_a_key_that_waits_for_nodes_counts_too() -> None:
    there = world(max_queue=2)
    there.kill("a")
    submit(there, "busy")
    with pytest.raises(RequestError) as refused:
        submit(there, "busy")
    assert refused.value.code == "key_queue_full"
    submit(there, "quiet")


def test_those_who_come_back_from_a_loss_of_nodes_are_started_in_turn_too() -> None:
    there = world(max_queue=400)
    there.kill("a")
    for _ in range(100):
        submit(there, "busy")
    one = submit(there, "quiet")
    assert there.coordinator.requests_state.waiting_of("busy") == 100
    there.join("a")
    there.settle()
    order = [name for actions in there.outcomes if isinstance(actions, list) for name in started(actions)]
    assert len(order) == 101
    assert [name.partition("/")[0] for name in order].index(one) == 1
