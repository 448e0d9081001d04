"""Requests that find no KV cache left, or no pipeline: tried again later each time, and given up in the end."""

from __future__ import annotations

import pytest

from helix_df.errors import RequestError
from helix_df.layers import LayerRange
from helix_df.rules.retries import MOST_REJECTIONS, backoff_s
from helix_df.runtime.coordinator.actions import Abort, CoordinatorAction
from helix_df.runtime.requests import GenerationRequest
from helix_df.runtime.sampling import SamplingParams
from helix_df.runtime.wire.messages import Forward, Message, Rejected, Sampled, Send
from property_tests.runtime_world import World, toy_answer, toy_plan


def world(**placement: LayerRange) -> World:
    return World(toy_plan(placement or {"a": LayerRange(0, 2)}, 2, 64, prefix_cache=False))


def asked(name: str, prompt: int = 4, max_tokens: int = 8) -> GenerationRequest:
    return GenerationRequest(name, tuple(range(prompt)), max_tokens, SamplingParams())


def sent(actions: list[CoordinatorAction]) -> list[Message]:
    return [action.message for action in actions if isinstance(action, Send)]


def started(actions: list[CoordinatorAction]) -> list[str]:
    return [message.request for message in sent(actions) if isinstance(message, Forward) and message.route]


def test_each_try_waits_twice_as_long_and_the_last_one_fails():
    coordinator = world().coordinator
    (key,) = started(coordinator.submit(asked("r"), 0.0))
    now = 1.0
    for rejections in range(1, MOST_REJECTIONS):
        assert started(coordinator.on_message(Rejected(key, "a", "kv_full"), now)) == []
        assert coordinator.snapshot().waiting == 1
        due_s = coordinator.next_due_s
        assert due_s == now + backoff_s(rejections)
        assert started(coordinator.on_due(due_s - 1e-6)) == []
        (key,) = started(coordinator.on_due(due_s))
        now = due_s
    (abort,) = (a for a in coordinator.on_message(Rejected(key, "a", "kv_full"), now) if isinstance(a, Abort))
    assert isinstance(abort.error, RequestError)
    assert (abort.error.status, abort.error.code) == (503, "kv_cache_full")
    status = coordinator.snapshot()
    assert (status.waiting, status.running, status.failed) == (0, 0, 1)
    assert not any(coordinator.ledger.used.values())
    assert coordinator.next_due_s is None


def test_others_start_meanwhile_and_the_one_who_waited_comes_first_then():
    coordinator = world().coordinator
    (key,) = started(coordinator.submit(asked("r", max_tokens=60), 0.0))
    coordinator.on_message(Rejected(key, "a", "kv_full"), 0.0)
    (other,) = started(coordinator.submit(asked("s", max_tokens=60), 0.0))
    assert other.startswith("s/")
    coordinator.submit(asked("t", max_tokens=60), 0.0)
    coordinator.on_due(1.0)
    assert list(coordinator.requests_state.queue) == ["r", "t"]


def test_whoever_is_cancelled_while_waiting_is_forgotten():
    coordinator = world().coordinator
    (key,) = started(coordinator.submit(asked("r"), 0.0))
    coordinator.on_message(Rejected(key, "a", "kv_full"), 0.0)
    coordinator.cancel("r")
    assert coordinator.next_due_s is None
    assert coordinator.snapshot().waiting == 0


@pytest.mark.parametrize("backs_off", [False, True])
def test_whoever_fits_no_pipeline_without_the_lost_worker_waits_for_it_and_the_others_go_on(backs_off):
    there = world(a=LayerRange(0, 2), b=LayerRange(0, 2))
    coordinator = there.coordinator
    coordinator.ledger.capacity["b"] = 20
    large = there.submit(tuple(range(4)), 50)
    if backs_off:
        (request,) = coordinator.requests_state.requests.values()
        coordinator.on_message(Rejected(request.key, "a", "kv_full"), 0.0)
    small = there.submit(tuple(range(4)), 8)
    there.kill("a")
    assert coordinator.requests_state.stranded == [large]
    assert coordinator.snapshot().waiting == 1
    there.join("a")
    there.settle()
    assert not there.aborted
    assert {name: there.answers[name] for name in (large, small)} == {
        name: toy_answer(there.asked[name], 2) for name in (large, small)
    }


def test_requests_wait_for_the_only_copy_of_a_layer_and_are_told_in_the_end_what_is_missing():
    there = world(a=LayerRange(0, 1), b=LayerRange(1, 2))
    coordinator = there.coordinator
    began = there.submit(tuple(range(4)), 8)
    there.kill("b")
    there.now = 30.0
    came = there.submit(tuple(range(4)), 8)
    assert coordinator.requests_state.stranded == [began, came]
    assert coordinator.snapshot().missing_layers == ((1, 2),)
    assert not coordinator.on_due(59.9)
    (first,) = coordinator.on_due(60.0)
    (second,) = coordinator.on_due(90.0)
    for abort, name in ((first, began), (second, came)):
        assert isinstance(abort, Abort)
        assert isinstance(abort.error, RequestError)
        assert (abort.request, abort.error.status) == (name, 503)
        assert "nobody who is up holds layers 1 to 1 (b is failed)" in str(abort.error)
    assert coordinator.next_due_s is None


def test_what_fits_no_pipeline_at_all_is_refused_also_while_nodes_are_away():
    there = world(a=LayerRange(0, 1), b=LayerRange(1, 2))
    there.kill("b")
    with pytest.raises(RequestError) as refused:
        there.submit(tuple(range(4)), 100)
    assert refused.value.code == "kv_cache_exceeded"


def test_those_who_wait_for_nodes_count_for_the_queue():
    there = World(toy_plan({"a": LayerRange(0, 2)}, 2, 64, max_queue=1))
    there.kill("a")
    there.submit((1,), 1)
    with pytest.raises(RequestError) as refused:
        there.submit((1,), 1)
    assert refused.value.status == 429


def test_an_answer_that_takes_too_long_is_given_up_wherever_it_is():
    there = World(toy_plan({"a": LayerRange(0, 2)}, 2, 64, prefix_cache=False, request_timeout="10s"))
    coordinator = there.coordinator
    running = GenerationRequest("running", (1, 2), 60, SamplingParams())
    waiting = GenerationRequest("waiting", (1, 2), 60, SamplingParams(), timeout_s=4.0)
    (key,) = started(coordinator.submit(running, 0.0))
    assert started(coordinator.submit(waiting, 0.0)) == []
    assert coordinator.next_due_s == 4.0
    (late,) = coordinator.on_due(4.0)
    assert isinstance(late, Abort)
    assert isinstance(late.error, RequestError)
    assert (late.request, late.error.status, late.error.code) == ("waiting", 504, "timeout")
    coordinator.on_message(Sampled(key, 2, 5, None), 5.0)
    (late,) = coordinator.on_due(10.0)
    assert isinstance(late, Abort)
    assert "1 tokens of the answer so far" in str(late.error)
    assert coordinator.next_due_s is None
    assert coordinator.snapshot().running == 1, "its step is still on its way"
    coordinator.on_message(Sampled(key, 2, 5, None), 11.0)
    assert (coordinator.snapshot().running, coordinator.snapshot().failed) == (0, 2)
    assert not any(coordinator.ledger.used.values())


def test_deadlines_of_requests_that_are_over_are_forgotten():
    there = World(toy_plan({"a": LayerRange(0, 2)}, 2, 640, request_timeout="1h"))
    for _ in range(1000):
        there.submit((1,), 1)
        there.cancel(next(reversed(there.asked)))
        there.settle()
    assert len(there.coordinator.requests_state._due) < 300
    assert there.coordinator.next_due_s is None
