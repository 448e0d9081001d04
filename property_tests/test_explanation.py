"""Explanations and comparisons: every number is what solving again gives."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helix_df.explanation.explain import explain
from helix_df.explanation.idle import idle_nodes
from helix_df.explanation.links import doubled_flow, full_links
from helix_df.explanation.one_more import TOLERANCE, best_twin, kinds_of, with_twin
from helix_df.graph.flow_graph import build_graph
from helix_df.graph.max_flow import placement_flow, solve_max_flow
from helix_df.graph.problem import Placement, Problem
from helix_df.layers import LayerRange
from helix_df.plan.diff import diff
from helix_df.plan.moves import load_bytes, move_bytes
from property_tests.strategies import geometries, placed_problems, placements_of
from tests.explain.plans import plan_of

Placed = tuple[Problem, Placement]


def every_range(problem: Problem, most: int) -> list[LayerRange]:
    total = problem.num_layers
    return [LayerRange(start, start + n) for n in range(1, min(most, total) + 1) for start in range(total - n + 1)]


@settings(max_examples=60)
@given(placed_problems(max_nodes=4, max_layers=5))
def test_the_best_twin_is_what_trying_every_range_finds(placed: Placed) -> None:
    problem, placement = placed
    for gpu in sorted({node.gpu for node in problem.nodes}):
        kinds = kinds_of(problem, gpu)
        if not kinds:
            continue
        best = placement_flow(problem, placement).value
        for like in kinds:
            grown = with_twin(problem, like)
            twin = grown.nodes[-1]
            for layers in every_range(problem, twin.max_layers):
                best = max(best, placement_flow(grown, {**placement, twin.name: layers}).value)
        found = best_twin(problem, placement, kinds)
        assert found.flow == pytest.approx(best, abs=2 * TOLERANCE)
        if found.layers is not None:
            grown = with_twin(problem, found.like)
            again = placement_flow(grown, {**placement, grown.nodes[-1].name: found.layers}).value
            assert again == pytest.approx(found.flow, abs=TOLERANCE)


@given(placed_problems())
def test_doubling_a_link_that_does_not_bind_changes_nothing(placed: Placed) -> None:
    problem, placement = placed
    graph = build_graph(problem, placement)
    flow = solve_max_flow(graph)
    full = {(link.tail, link.head) for link in full_links(graph, flow)}
    for edge in graph.edges:
        if (edge.tail, edge.head) not in full and (edge.head, edge.tail) not in full:
            assert doubled_flow(graph, edge.tail, edge.head) == pytest.approx(flow.value, abs=TOLERANCE)


@given(placed_problems())
def test_doubling_a_full_link_is_what_the_doubled_job_carries(placed: Placed) -> None:
    problem, placement = placed
    graph = build_graph(problem, placement)
    for link in full_links(graph, solve_max_flow(graph)):
        doubled = {
            ends: replace(found, bytes_per_s=2 * found.bytes_per_s)
            for ends in ((link.tail, link.head), (link.head, link.tail))
            if (found := problem.links.find(*ends)) is not None
        }
        faster = replace(problem, links=replace(problem.links, by_node={**problem.links.by_node, **doubled}))
        assert link.doubled_flow == pytest.approx(placement_flow(faster, placement).value, abs=TOLERANCE)


@given(placed_problems())
def test_idle_nodes_are_those_without_flow_and_taking_them_away_costs_nothing(placed: Placed) -> None:
    problem, placement = placed
    flow = placement_flow(problem, placement)
    idle = idle_nodes(problem, placement, flow)
    busy = {edge.head for edge in flow.edges}
    assert {node.node for node in idle} == {node.name for node in problem.nodes} - busy
    for node in idle:
        assert (node.layers is None) == (node.node not in placement)
        without = {name: layers for name, layers in placement.items() if name != node.node}
        assert placement_flow(problem, without).value == pytest.approx(flow.value, abs=TOLERANCE)
        if node.layers is not None:
            graph = build_graph(problem, placement)
            fast = tuple(
                replace(edge, capacity=math.inf) if node.node in (edge.tail, edge.head) else edge
                for edge in graph.edges
            )
            assert node.fast_flow == pytest.approx(solve_max_flow(replace(graph, edges=fast)).value, abs=TOLERANCE)
        if node.why in ("no_way_in", "no_way_out"):
            assert node.most_through == 0
        if node.why == "slow_links":
            assert node.fast_flow is not None
            assert node.fast_flow > flow.value


@settings(max_examples=30)
@given(placed_problems(max_nodes=5, max_layers=6))
def test_an_explanation_says_what_solving_again_gives(placed: Placed) -> None:
    problem, placement = placed
    plan = plan_of(problem, placement)
    found = explain(plan, problem=problem, budget_s=0)
    assert found.flow == pytest.approx(placement_flow(problem, placement).value)
    cut = sum(node.capacity for node in found.cut_nodes)
    cut += sum(problem.link_capacity(*link) for link in found.cut_links)
    assert cut == pytest.approx(found.flow, abs=TOLERANCE)
    for worth in found.gpus:
        assert found.flow <= worth.beside.flow <= worth.bound * (1 + 1e-9)
        assert math.isfinite(worth.bound)


@given(placed_problems())
def test_a_plan_does_not_differ_from_itself(placed: Placed) -> None:
    plan = plan_of(*placed)
    found = diff(plan, plan)
    assert found.is_empty
    assert (found.load_bytes, found.rerouted_tokens_per_s) == (0, 0)
    assert found.unchanged == len(plan.placement)


@given(st.data())
def test_what_a_change_loads_less_what_the_way_back_loads_is_what_more_is_held(data: st.DataObject) -> None:
    geometry = data.draw(geometries())
    old, new = data.draw(placements_of(geometry.num_layers)), data.draw(placements_of(geometry.num_layers))
    there, back = (sum(move_bytes(a, b, geometry, 2).values()) for a, b in ((old, new), (new, old)))
    held = [sum(load_bytes(None, layers, geometry, 2) for layers in placement.values()) for placement in (old, new)]
    assert there - back == held[1] - held[0]
    assert there <= held[1]


@given(st.data())
def test_swapping_two_nodes_costs_the_same_both_ways(data: st.DataObject) -> None:
    geometry = data.draw(geometries())
    placement = data.draw(placements_of(geometry.num_layers))
    names = sorted(placement)
    a, b = data.draw(st.sampled_from(names)), data.draw(st.sampled_from(names))
    swapped = {**placement, a: placement[b], b: placement[a]}
    there, back = (sum(move_bytes(x, y, geometry, 4).values()) for x, y in ((placement, swapped), (swapped, placement)))
    assert there == back
