"""Another plan takes over from one that runs, and nodes are emptied: nothing is lost, nothing changes, nobody waits."""

from __future__ import annotations

import pytest

from helix_df.errors import DeploymentError
from helix_df.layers import LayerRange
from helix_df.runtime.coordinator.actions import CoordinatorAction
from helix_df.runtime.requests import EngineHealth, TokenEvent
from helix_df.runtime.wire.messages import Heartbeat, Hello, Loading, Ready, Send, Welcome
from property_tests.runtime_world import World, toy_answer, toy_plan

LAYERS = 4
NOW = {"a": LayerRange(0, 2), "b": LayerRange(2, 4)}
THEN = {"a": LayerRange(0, 1), "b": LayerRange(2, 4), "c": LayerRange(1, 2)}


def world(placement: dict[str, LayerRange] = NOW) -> World:
    return World(toy_plan(placement, LAYERS, 200, max_prefill_tokens=16))


def expected(there: World) -> dict[str, list[TokenEvent]]:
    return {name: toy_answer(request, LAYERS) for name, request in there.asked.items()}


def go_on(there: World, rounds: int) -> None:
    """Let a little happen, not everything."""
    for _ in range(rounds):
        for wire in there.busy_wires()[:1]:
            there.deliver(wire)
        for address in sorted(there.workers):
            there.compute(address)


def states(there: World) -> dict[str, tuple[str, str]]:
    return {node.name: (node.role, node.state) for node in there.coordinator.snapshot().nodes}


def test_workers_whose_layers_change_come_beside_those_that_serve_and_take_over_when_all_are_up():
    there = world()
    there.submit((1, 2, 3), 12)
    go_on(there, rounds=2)
    there.change(THEN)
    assert states(there) == {
        "a": ("serving", "ready"),
        "b": ("serving", "ready"),
        "a.2": ("coming", "waiting"),
        "c": ("coming", "waiting"),
    }
    assert "a.2 is waiting, c is waiting" in there.coordinator.snapshot().change
    there.submit((4, 5), 12)
    there.settle()
    assert states(there) == dict.fromkeys(("b", "a.2", "c"), ("serving", "ready"))
    assert there.coordinator.snapshot().change == ""
    there.submit((6,), 12)
    there.settle()
    assert there.answers == expected(there)
    assert {worker.node for worker in there.workers.values()} == {"a.2", "b", "c"}, "a was told to stop"
    there.replay()
    there.drop_prefixes()
    assert there.leftovers() == {}


def test_requests_that_run_end_where_they_are_while_new_ones_go_the_new_way():
    there = world()
    first = there.submit((1, 2, 3), 40)
    go_on(there, rounds=20)
    begun = len(there.answers[first])
    assert 0 < begun < 40
    there.change({"a": LayerRange(0, 3), "b": LayerRange(3, 4)})
    while there.coordinator.change is not None:
        news = [wire for wire in there.busy_wires() if ".2/" in wire[0] or ".2/" in wire[1]]
        there.deliver(news[0])
    assert states(there)["a"] == ("leaving", "ready")
    request = there.coordinator.requests_state.requests[first]
    assert [hop.node for hop in request.pipeline or ()] == ["a", "b"]
    there.submit((7, 8), 5)
    there.settle()
    assert there.answers == expected(there)
    assert set(states(there)) == {"a.2", "b.2"}


def test_a_second_change_goes_on_from_the_first():
    there = world()
    there.change(THEN)
    there.settle()
    there.change(NOW)
    there.submit((1, 2), 9)
    there.settle()
    assert set(states(there)) == {"a.3", "b"}
    assert there.answers == expected(there)


def test_a_plan_with_the_same_stages_takes_over_at_once():
    there = world()
    there.change(NOW, max_queue=3)
    assert set(states(there)) == {"a", "b"}
    assert there.coordinator.plan.job.runtime.max_queue == 3


def test_a_change_whose_worker_ends_is_given_up_and_the_job_serves_on():
    there = world()
    there.change(THEN)
    there.kill("c")
    status = there.coordinator.snapshot()
    assert status.change == "another plan was given up: worker c ended: killed"
    assert (status.state, set(states(there))) == ("ready", {"a", "b"})
    there.submit((1, 2), 9)
    there.settle()
    assert there.answers == expected(there)
    there.change(THEN)
    there.settle()


def test_a_plan_does_without_a_lost_node_until_it_is_back_with_what_it_holds():
    there = world()
    there.submit((1, 2), 9)
    there.settle()
    there.kill("b")
    there.submit((3, 4), 9)
    there.change({"a": LayerRange(0, 4)}, without=("b",))
    there.settle()
    assert states(there) == {"a.2": ("serving", "ready"), "b": ("spare", "failed")}
    assert (there.coordinator.snapshot().state, there.coordinator.names) == ("ready", {"a": "a.2"})
    there.join("b")
    there.submit((5, 6), 9)
    there.settle()
    assert states(there) == {"a.2": ("serving", "ready"), "b": ("spare", "ready")}
    assert {worker.node for worker in there.workers.values()} == {"a.2", "b"}
    there.change(NOW)
    assert states(there)["a.3"] == ("coming", "waiting")
    there.submit((7, 8), 9)
    there.settle()
    assert states(there) == {"a.3": ("serving", "ready"), "b": ("serving", "ready")}
    assert there.coordinator.spares == {}
    assert there.answers == expected(there)
    there.replay()


def test_another_plan_without_a_lost_node_lets_its_worker_go():
    there = world()
    there.kill("b")
    there.change({"a": LayerRange(0, 4)}, without=("b",))
    there.settle()
    there.join("b")
    there.settle()
    there.change({"a": LayerRange(0, 3), "c": LayerRange(3, 4)})
    there.settle()
    assert set(states(there)) == {"a.3", "c"}
    assert {worker.node for worker in there.workers.values()} == {"a.3", "c"}


def test_a_change_that_takes_too_long_is_given_up():
    there = world()
    there.change(THEN)
    there.give_up_change("late")
    assert there.coordinator.snapshot().change == "another plan was given up: late"
    assert set(states(there)) == {"a", "b"}
    there.submit((1, 2), 9)
    there.settle()
    assert there.answers == expected(there)
    there.replay()


def test_only_one_change_at_a_time_and_only_what_can_change():
    there = world()
    with pytest.raises(DeploymentError, match=r"another runtime\.prefix_cache"):
        there.change(THEN, prefix_cache=False)
    there.change(THEN)
    with pytest.raises(DeploymentError, match="about to take over"):
        there.change(NOW)


def test_a_drained_node_gets_no_new_requests_and_ends_what_it_began():
    there = world({"a": LayerRange(0, 4), "b": LayerRange(0, 4)})
    names = [there.submit((index, 1), 9) for index in range(6)]
    there.drain("a", drained=True)
    running = there.coordinator.requests_state.running_on["a"]
    assert running > 0
    more = [there.submit((index, 2), 9) for index in range(4)]
    assert there.coordinator.requests_state.running_on["a"] == running
    there.settle()
    assert {name: there.answers[name] for name in (*names, *more)} == expected(there)
    with pytest.raises(DeploymentError, match="without b no full path"):
        there.drain("b", drained=True)
    assert there.coordinator.ready
    there.drain("a", drained=False)
    there.drain("b", drained=True)
    with pytest.raises(DeploymentError, match="no node nobody"):
        there.drain("nobody", drained=True)
    there.replay()


def test_a_worker_that_still_compiles_is_waited_for():
    there = world()
    there.change(THEN)
    for node in ("a.2", "c"):
        (worker,) = (worker for worker in there.workers.values() if worker.node == node)
        there.coordinator.on_message(Hello(node, worker.address, 77), 0.0)
        there.coordinator.on_message(Loading(node, "compiling", 0.5, "8 x 1"), 0.0)
        there.coordinator.on_message(Heartbeat(node, EngineHealth(cold_shapes=3)), 0.0)
        there.coordinator.on_message(Ready(node, 200), 0.0)
    assert states(there)["a.2"] == ("coming", "ready")
    there.coordinator.on_message(Heartbeat("a.2", EngineHealth()), 1.0)
    assert there.coordinator.change is not None
    there.coordinator.on_message(Heartbeat("c", EngineHealth()), 1.0)
    assert there.coordinator.change is None
    assert states(there)["a.2"] == ("serving", "ready")


def test_a_drain_that_is_refused_moves_nobody():
    there = World(toy_plan({"a": LayerRange(0, 2), "b": LayerRange(2, 4), "c": LayerRange(0, 2)}, LAYERS, 12))
    names = [there.submit((index, 1, 2, 3), 8) for index in range(6)]
    queue = there.coordinator.requests_state.queue
    last = list(queue)[-1]
    queue.remove([last])
    queue.join_first(last, None)  # as when somebody was put back
    before = list(queue)
    assert len(before) > 1
    with pytest.raises(DeploymentError):
        there.drain("b", drained=True)
    assert list(there.coordinator.requests_state.queue) == before
    there.settle()
    assert {name: there.answers[name] for name in names} == expected(there)


def test_a_late_greeting_of_a_dead_worker_keeps_nobody_out_for_long():
    there = world()
    nodes, tick_s = there.coordinator.nodes_state, 0.5
    there.kill("a")
    there.coordinator.on_message(Hello("a", "toy://a/gone", 70), 0.0)
    seconds = 0.0
    while nodes.nodes["a"].address != "toy://a/here":
        seconds += tick_s
        assert seconds < 40, "who is there is kept out by who isn't"
        there.coordinator.on_message(Heartbeat("a", life=71), seconds)
        there.coordinator.tick(seconds)
        there.coordinator.on_message(Hello("a", "toy://a/here", 72), seconds)
    assert nodes.nodes["a"].life == 72


def welcomed(actions: list[CoordinatorAction]) -> list[int]:
    """The lives that are welcomed."""
    sent = (action.message for action in actions if isinstance(action, Send))
    return [message.life for message in sent if isinstance(message, Welcome)]


def test_a_worker_is_called_back_by_the_life_that_it_says_to_have():
    there = world()
    nodes = there.coordinator.nodes_state
    for seconds in (4.0, 5.0):
        there.coordinator.on_message(Heartbeat("b"), seconds)
        there.coordinator.tick(seconds)
    assert nodes.nodes["a"].state == "lost"
    told = there.coordinator.on_message(Heartbeat("a", life=99), 6.0)
    assert welcomed(told) == [99]
    assert welcomed(there.coordinator.on_message(Heartbeat("a", life=99), 6.5)) == [], "it has just been called"
    again = there.coordinator.on_message(Heartbeat("a", life=99), 7.0)
    assert welcomed(again) == [99], "that may have been lost"
