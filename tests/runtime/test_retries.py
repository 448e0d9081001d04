"""Requests that find no KV cache left, or no pipeline: tried again later each time, and given up in the end."""

from __future__ import annotations

import pytest

from helix_df.errors import RequestError
from helix_df.layers import LayerRange
from helix_df.rules.retries import MOST_REJECTIONS, backoff_s
from helix_df.runtime.coordinator.actions import Abort, CoordinatorAction
from helix_df.runtime.requests import GenerationRequest
from helix_df.runtime.sampling import SamplingParams
from helix_df.runtime.wire.messages import Forward, Message, Rejected, Send
from property_tests.runtime_world import World, toy_plan


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
    (key,) = started(coordinator.submit(asked("r")))
    now = 1.0
    for rejections in range(1, MOST_REJECTIONS):
        assert started(coordinator.on_message(Rejected(key, "a", "kv_full"), now)) == []
        assert coordinator.snapshot().waiting == 1
        due_s = coordinator.next_retry_s
        assert due_s == now + backoff_s(rejections)
        assert started(coordinator.retry(due_s - 1e-6)) == []
        (key,) = started(coordinator.retry(due_s))
        now = due_s
    (abort,) = (a for a in coordinator.on_message(Rejected(key, "a", "kv_full"), now) if isinstance(a, Abort))
    assert isinstance(abort.error, RequestError)
    assert (abort.error.status, abort.error.code) == (503, "kv_cache_full")
    status = coordinator.snapshot()
    assert (status.waiting, status.running, status.failed) == (0, 0, 1)
    assert not any(coordinator.ledger.used.values())
    assert coordinator.next_retry_s is None


def test_others_start_meanwhile_and_the_one_who_waited_comes_first_then():
    coordinator = world().coordinator
    (key,) = started(coordinator.submit(asked("r", max_tokens=60)))
    coordinator.on_message(Rejected(key, "a", "kv_full"), 0.0)
    (other,) = started(coordinator.submit(asked("s", max_tokens=60)))
    assert other.startswith("s/")
    coordinator.submit(asked("t", max_tokens=60))
    coordinator.retry(1.0)
    assert list(coordinator.requests_state.queue) == ["r", "t"]


def test_whoever_is_cancelled_while_waiting_is_forgotten():
    coordinator = world().coordinator
    (key,) = started(coordinator.submit(asked("r")))
    coordinator.on_message(Rejected(key, "a", "kv_full"), 0.0)
    coordinator.cancel("r")
    assert coordinator.next_retry_s is None
    assert coordinator.snapshot().waiting == 0


@pytest.mark.parametrize("backs_off", [False, True])
def test_whoever_fits_no_pipeline_without_the_lost_worker_is_told_and_the_others_go_on(backs_off):
    there = world(a=LayerRange(0, 2), b=LayerRange(0, 2))
    coordinator = there.coordinator
    coordinator.ledger.capacity["b"] = 20
    (key,) = started(coordinator.submit(asked("large", max_tokens=50)))
    if backs_off:
        coordinator.on_message(Rejected(key, "a", "kv_full"), 0.0)
    there.submit(tuple(range(4)), 8)
    there.kill("a")
    assert list(there.aborted) == ["large"]
    there.settle()
    assert coordinator.snapshot().running == coordinator.snapshot().waiting == 0
