"""Messages that never arrive, or late: steps that are nowhere any more, and last words of workers that are gone."""

from __future__ import annotations

from helix_df.layers import LayerRange
from helix_df.runtime.coordinator.nodes_state import NodesState
from helix_df.runtime.coordinator.step_watch import RunningStep, StepWatch
from helix_df.runtime.wire.messages import Heartbeat, Hello, Located, Ready, Send
from tests.runtime.tiny import tiny_plan

STEP = RunningStep("r/1", 7, {"a": "tcp://a:1", "b": "tcp://b:1"}, 4.0)


def verdicts(answers: list[dict[str, tuple[int, int]]]) -> list[bool]:
    """Whether the step counts as lost, a second and more after each round of questions."""
    watch, found = StepWatch(), []
    assert watch.look([STEP], 0.0) == []
    for now, places in enumerate(answers, start=1):
        assert [question.address for question in watch.look([STEP], now)] == ["tcp://a:1", "tcp://b:1"]
        found.append([watch.on_located(Located("r/1", node, *at), now) for node, at in places.items()])
    return [any(of_round) for of_round in found]


def test_a_step_is_lost_once_nobody_has_had_it_for_long() -> None:
    assert verdicts([{"a": (7, 7), "b": (6, 6)}] * 4) == [False, False, False, True]


def test_a_step_that_waits_or_goes_on_is_not_lost() -> None:
    assert not any(verdicts([{"a": (7, 7), "b": (6, 7)}] * 20)), "b holds it, and is slow"
    assert not any(verdicts([{"a": (n, n), "b": (n - 1, n - 1)} for n in range(7, 27)])), "a prompt, piece by piece"
    assert not any(verdicts([{"a": (7, 7)}] * 20)), "b doesn't say"


def test_a_step_that_was_answered_is_watched_anew() -> None:
    watch = StepWatch()
    for now in range(20):
        step = RunningStep("r/1", 7 + now // 2, STEP.addresses, 4.0)
        watch.look([step], now)
        assert not any(watch.on_located(Located("r/1", node, 7, 7), now) for node in "ab")


def test_a_late_greeting_of_a_worker_that_is_gone_keeps_nobody_away() -> None:
    nodes = NodesState.of(tiny_plan({"only": LayerRange(0, 4)}), ["only"])
    alive, gone = Hello("only", "tcp://127.0.0.1:8", 14), Hello("only", "tcp://127.0.0.1:7", 10)
    nodes.take_over("only", alive.address, alive.life)
    nodes.on_hello(gone, 0.0)
    nodes.on_progress(Ready("only", 4096), 0.5)
    nodes.tick(10.0)
    (told,) = nodes.on_progress(Heartbeat("only", life=14), 10.5)
    assert isinstance(told, Send)
    assert (told.address, told.message.TAG) == (alive.address, "welcome")


def test_a_worker_whose_place_nobody_has_written_down_greets_and_is_found() -> None:
    """The coordinator that took it in has died before its journal had it; the next one knows where its former was."""
    nodes = NodesState.of(tiny_plan({"only": LayerRange(0, 4)}), ["only"])
    nodes.take_over("only", "tcp://127.0.0.1:7", 10)
    for now in range(1, 5):  # it speaks, and hears nothing
        nodes.on_progress(Heartbeat("only", life=14), now)
        nodes.on_progress(Ready("only", 4096, life=14), now + 0.1)
        assert nodes.nodes["only"].state == "joined", "nobody knows yet where it listens"
    *_, told = nodes.on_hello(Hello("only", "tcp://127.0.0.1:8", 15), 5.0)
    assert isinstance(told, Send)
    assert told.address == "tcp://127.0.0.1:8"
    nodes.on_progress(Ready("only", 4096, life=15), 5.1)
    assert nodes.nodes["only"].state == "ready"


def test_a_worker_that_says_ready_again_changes_nothing_and_hears_that_it_is_known() -> None:
    nodes = NodesState.of(tiny_plan({"only": LayerRange(0, 4)}), ["only"])
    nodes.on_hello(Hello("only", "tcp://127.0.0.1:7", 5), 0.0)
    (before,) = nodes.on_progress(Heartbeat("only", life=5), 0.5)
    assert len(nodes.on_progress(Ready("only", 4096), 1.0)) == 1
    assert nodes.on_progress(Ready("only", 4096), 1.5) == []
    (after,) = nodes.on_progress(Heartbeat("only", life=5), 2.0)
    assert [before.message.life, after.message.life] == [0, 5]  # type: ignore[union-attr]
