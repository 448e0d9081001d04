"""Requests go wherever the layers allow when nodes are gone, and by the plan's flow while all are up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from helix_df.graph.flow import EdgeFlow
from helix_df.graph.flow_graph import build_graph
from helix_df.graph.problem import COORDINATOR
from helix_df.layers import LayerRange
from helix_df.plan.plan import Plan
from helix_df.runtime.coordinator.ways import possible_ways, serving_nodes
from property_tests.runtime_world import World, toy_plan, toy_problem

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
