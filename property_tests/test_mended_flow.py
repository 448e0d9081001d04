"""The flow over what is up is a maximum flow there, and keeps to the plan's hops where those are enough."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_df.graph.flow import EdgeFlow
from helix_df.graph.flow_graph import FlowEdge, FlowGraph, build_graph
from helix_df.graph.max_flow import solve_max_flow
from helix_df.graph.problem import COORDINATOR
from helix_df.rules.mended_flow import mended_flow
from property_tests.strategies import placed_problems


def ends(edge: EdgeFlow | FlowEdge) -> tuple[str, str]:
    """Tail and head."""
    return edge.tail, edge.head


def of_those(graph: FlowGraph, up: frozenset[str]) -> FlowGraph:
    """The graph without nodes that are down."""
    here = up | {COORDINATOR}
    return FlowGraph(
        graph.num_layers,
        tuple(node for node in graph.nodes if node.name in up),
        tuple(edge for edge in graph.edges if edge.tail in here and edge.head in here),
    )


@given(placed_problems(), st.randoms(use_true_random=False))
def test_a_maximum_flow_over_what_is_up(placed, random):
    graph = build_graph(*placed)
    planned = solve_max_flow(graph).edges
    up = frozenset(node.name for node in graph.nodes if random.random() < 0.7)
    edges = mended_flow(graph, planned, up.__contains__)

    best = solve_max_flow(of_those(graph, up))
    carried = sum(edge.tokens_per_s for edge in edges if edge.tail == COORDINATOR)
    assert carried == pytest.approx(best.value, rel=1e-9, abs=1e-5)
    through, balance = defaultdict[str, float](float), defaultdict[str, float](float)
    for edge in edges:
        through[edge.head] += edge.tokens_per_s
        balance[edge.head] += edge.tokens_per_s
        balance[edge.tail] -= edge.tokens_per_s
    capacity = {node.name: node.capacity for node in graph.nodes}
    links = {(edge.tail, edge.head): edge.capacity for edge in graph.edges}
    assert all(through[name] <= capacity[name] + 1e-5 for name in capacity)
    assert all(edge.tokens_per_s <= links[edge.tail, edge.head] + 1e-5 for edge in edges)
    assert all(balance[name] == pytest.approx(0.0, abs=1e-4) for name in capacity)
    assert all({edge.tail, edge.head} <= up | {COORDINATOR} for edge in edges)


@given(placed_problems(), st.randoms(use_true_random=False))
def test_nothing_goes_over_a_hop_that_is_cut(placed, random):
    graph = build_graph(*placed)
    planned = solve_max_flow(graph).edges
    cut = {ends(edge) for edge in graph.edges if random.random() < 0.3}
    edges = mended_flow(graph, planned, lambda _: True, cut)
    assert cut.isdisjoint(map(ends, edges))
    left = replace(graph, edges=tuple(edge for edge in graph.edges if ends(edge) not in cut))
    carried = sum(edge.tokens_per_s for edge in edges if edge.tail == COORDINATOR)
    assert carried == pytest.approx(solve_max_flow(left).value, rel=1e-9, abs=1e-5)


@given(placed_problems(), st.randoms(use_true_random=False))
def test_the_plans_hops_come_first(placed, random):
    graph = build_graph(*placed)
    planned = solve_max_flow(graph).edges
    assert mended_flow(graph, planned, lambda _: True) == planned
    up = frozenset(node.name for node in graph.nodes if random.random() < 0.7)
    flow = {(edge.tail, edge.head): edge.tokens_per_s for edge in planned}
    within = replace(
        graph, edges=tuple(replace(edge, capacity=flow[hop]) for edge in graph.edges if (hop := ends(edge)) in flow)
    )
    enough, best = solve_max_flow(of_those(within, up)).value, solve_max_flow(of_those(graph, up)).value
    if len(up) < len(graph.nodes) and enough == pytest.approx(best, rel=1e-9):
        edges = mended_flow(graph, planned, up.__contains__)
        assert all(edge.tokens_per_s <= flow[ends(edge)] + 1e-5 for edge in edges)
