"""Requests go wherever the layers allow when nodes are gone, and by the plan's flow while all are up."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from helix_df.graph.flow import EdgeFlow
from helix_df.graph.flow_graph import build_graph
from helix_df.graph.problem import COORDINATOR
from helix_df.layers import LayerRange
from helix_df.plan.plan import Plan
from helix_df.runtime.coordinator.request import ServedRequest
from helix_df.runtime.coordinator.ways import possible_ways, serving_nodes
from helix_df.runtime.wire.messages import Heartbeat
from property_tests.runtime_world import World, toy_answer, toy_plan, toy_problem

THIRDS = {"a": LayerRange(0, 2), "b": LayerRange(2, 4), "c": LayerRange(4, 6)}
TWICE = {f"{third}{copy}": layers for third, layers in THIRDS.items() for copy in (1, 2)}
CHAINS = (("a1", "b1", "c2"), ("a2", "b2", "c1"))
"""Two pipelines of the plan; nobody goes from b2 to c2."""


@pytest.fixture(scope="module")
def plan() -> Plan:
    made = toy_plan(TWICE, 6, 400, prefix_cache=False)
    hops = [pair for chain in CHAINS for pair in zip((COORDINATOR, *chain), (*chain, COORDINATOR), strict=True)]
    return replace(made, edges=tuple(EdgeFlow(tail, head, 1.0) for tail, head in hops))


def world_of(plan: Plan) -> World:
    world = World(plan, ways=build_graph(toy_problem(TWICE, 6), TWICE))
    for node in TWICE:
        world.join(node)
    world.settle()
    return world


def served(plan: Plan, *killed: str) -> tuple[World, list[str]]:
    """Eight requests, in the middle of which nodes are killed one after the other."""
    world = world_of(plan)
    names = [world.submit((1, 2, number), 12) for number in range(8)]
    for node in killed:
        for _ in range(40):
            world.deliver(world.busy_wires()[0])
            for address in sorted(world.workers):
                world.compute(address)
        world.kill(node)
    world.settle()
    return world, names


@pytest.mark.parametrize("killed", [(), ("b1",), ("b1", "c1"), ("a2", "b1", "c1"), ("c2",), ("a1", "c2")])
def test_nothing_is_lost_while_every_layer_is_held(plan, killed):
    world, names = served(plan, *killed)
    undisturbed, _ = served(plan)
    assert not world.aborted
    for name in names:
        assert [event.token for event in world.answers[name]] == [event.token for event in undisturbed.answers[name]]
        assert len(world.answers[name]) == 12 or world.answers[name][-1].finish == "stop"
    assert not world.leftovers()


def test_while_all_are_up_requests_keep_to_the_plans_hops(plan):
    world = world_of(plan)
    for number in range(6):
        world.submit((1, 2, number), 4)
    pipelines = {
        tuple(hop.node for hop in one.pipeline or ()) for one in world.coordinator.requests_state.requests.values()
    }
    assert pipelines == set(CHAINS)


def test_a_hop_that_carries_nothing_is_left_out_until_it_does_again(plan):
    world = world_of(plan)
    names = [world.submit((1, 2, number), 12) for number in range(6)]
    c2 = world.coordinator.nodes_state.address("c2")
    assert any(("b1", "c2") in hops_of(one) for one in world.coordinator.requests_state.requests.values())
    world.says("b1", Heartbeat("b1", life=world.life_of("b1"), unreachable=("toy://elsewhere", c2)))
    assert world.coordinator.snapshot().cut_hops == (("b1", "c2"),)
    assert all(("b1", "c2") not in hops_of(one) for one in world.coordinator.requests_state.requests.values())
    world.settle()
    assert "c2" not in world.coordinator.requests_state.adjacency.get("b1", ())
    assert world.answers == {name: toy_answer(world.asked[name], 6) for name in names}
    world.says("b1", Heartbeat("b1", life=world.life_of("b1")))
    assert world.coordinator.requests_state.adjacency["b1"] == ("c2",)
    world.submit((1, 2, 3), 4)
    world.settle()
    assert not world.leftovers()


def test_where_a_cut_leaves_no_way_requests_wait_and_it_is_said_why():
    world = World(toy_plan({"a": LayerRange(0, 2), "b": LayerRange(2, 4)}, 4, 200, scheduler="random"))
    for node in "ab":
        world.join(node)
    world.settle()
    name = world.submit((1, 2), 5)
    b = world.coordinator.nodes_state.address("b")
    world.says("a", Heartbeat("a", life=world.life_of("a"), unreachable=(b,)))
    assert (world.coordinator.ready, world.coordinator.snapshot().state) == (False, "degraded")
    assert "a doesn't reach b" in world.coordinator.nodes_state.what_is_missing()
    later = world.submit((3, 4), 5)
    assert world.coordinator.requests_state.stranded == [name, later]
    world.kill("b")
    world.join("b")
    world.settle()
    assert world.coordinator.ready
    assert world.answers[name] == toy_answer(world.asked[name], 4)
    world.replay()


def hops_of(request: ServedRequest) -> set[tuple[str, str]]:
    return set(pairwise(hop.node for hop in request.pipeline or ()))


def test_back_again_the_plans_hops_are_taken_again(plan):
    world = world_of(plan)
    for node in ("b1", "c1"):
        world.kill(node)
        world.settle()
    assert world.coordinator.requests_state.adjacency["b2"] == ("c2",)
    for node in ("b1", "c1"):
        world.join(node)
        world.settle()
    assert world.coordinator.requests_state.adjacency["b2"] == ("c1",)


def test_nodes_without_flow_are_started(plan):
    only_one = replace(plan, edges=plan.edges[:4])
    ways = build_graph(toy_problem(TWICE, 6), TWICE)
    assert set(serving_nodes(only_one, ways)) == set(TWICE)
    # Of a job whose model can't be found, those with flow.
    assert {edge.tail for edge in possible_ways(only_one).edges} == {COORDINATOR, "a1", "b1", "c2"}
