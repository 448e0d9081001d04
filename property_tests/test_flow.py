"""The flow of any placement: a right maximum flow, a real cut, and paths that run the model."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_df.graph.bounds import best_bound, covering_bound, linked_covering_bound, site_shares
from helix_df.graph.capacities import link_matrix
from helix_df.graph.feasibility import explain_infeasible, explain_no_flow
from helix_df.graph.flow import decompose
from helix_df.graph.flow_graph import FlowGraph, build_graph
from helix_df.graph.judge import Judge
from helix_df.graph.max_flow import placement_flow
from helix_df.graph.problem import COORDINATOR, Link, LinkTable, Placement, Problem
from property_tests.brute_force import best_flow, placement_count
from property_tests.strategies import placed_problems, problems

TOLERANCE = 1e-3
"""Tokens/s: integer flow rounds each capacity down by at most a millionth."""

Placed = tuple[Problem, Placement]


def oracle_flow(graph: FlowGraph) -> float:
    network = nx.DiGraph()
    network.add_nodes_from(["source", "sink"])
    for node in graph.nodes:
        network.add_edge((node.name, "in"), (node.name, "out"), capacity=node.capacity)
    for edge in graph.edges:
        tail = "source" if edge.tail == COORDINATOR else (edge.tail, "out")
        head = "sink" if edge.head == COORDINATOR else (edge.head, "in")
        network.add_edge(tail, head, capacity=edge.capacity)
    return nx.maximum_flow_value(network, "source", "sink")


@given(placed_problems())
def test_the_flow_is_what_networkx_finds(placed: Placed) -> None:
    problem, placement = placed
    assert placement_flow(problem, placement).value == pytest.approx(
        oracle_flow(build_graph(problem, placement)), abs=TOLERANCE
    )


@given(placed_problems())
def test_flow_is_conserved_within_capacities_and_equals_its_cut(placed: Placed) -> None:
    problem, placement = placed
    graph = build_graph(problem, placement)
    flow = placement_flow(problem, placement)
    capacity = {(edge.tail, edge.head): edge.capacity for edge in graph.edges}
    balance = dict.fromkeys([COORDINATOR, *placement], 0.0)
    for edge in flow.edges:
        assert 0 < edge.tokens_per_s <= capacity[edge.tail, edge.head] + 1e-9
        balance[edge.tail] -= edge.tokens_per_s
        balance[edge.head] += edge.tokens_per_s
    assert all(abs(lost) < TOLERANCE for lost in balance.values())
    for node in graph.nodes:
        assert flow.through(node.name) <= node.capacity + 1e-9
    assert flow.through(COORDINATOR) == pytest.approx(flow.value, abs=TOLERANCE)
    assert flow.cut.capacity == pytest.approx(flow.value, abs=TOLERANCE)
    nodes = {node.name: node.capacity for node in graph.nodes}
    cut = sum(nodes[name] for name in flow.cut.nodes) + sum(capacity[link] for link in flow.cut.links)
    assert cut == pytest.approx(flow.value, abs=TOLERANCE)


@given(placed_problems(), st.lists(st.integers(0, 2), min_size=6, max_size=6))
def test_no_flow_is_over_any_bound(placed: Placed, site_of: list[int]) -> None:
    problem, placement = placed
    usable = [i for i, node in enumerate(problem.nodes) if node.max_layers]
    # Sites may be any groups: the proof doesn't ask for fast links inside them.
    sites = [group for g in range(3) if (group := [i for i in usable if site_of[i] == g])]
    bounds = [covering_bound(problem), linked_covering_bound(problem), site_shares(problem, sites).bound]
    flow = placement_flow(problem, placement).value
    assert all(flow <= bound * (1 + 1e-9) + TOLERANCE for bound in bounds)
    assert flow <= best_bound(problem).bound * (1 + 1e-9) + TOLERANCE


@given(placed_problems())
def test_the_judge_agrees_with_the_whole_flow(placed: Placed) -> None:
    problem, placement = placed
    judge = Judge(problem)
    assert judge.flow(*judge.arrays(placement)) == pytest.approx(placement_flow(problem, placement).value, abs=1e-9)
    assert judge.placement(*judge.arrays(placement)) == placement


@given(problems())
def test_the_matrix_of_links_says_what_the_table_says(problem: Problem) -> None:
    names = [*(node.name for node in problem.nodes), COORDINATOR]
    matrix = link_matrix(problem)
    for a, first in enumerate(names):
        for b, second in enumerate(names):
            assert matrix[a, b] == (problem.link_capacity(first, second) if a != b else 0.0)


@given(placed_problems())
def test_paths_carry_all_flow_and_run_each_layer_once_in_order(placed: Placed) -> None:
    problem, placement = placed
    flow = placement_flow(problem, placement)
    paths = decompose(placement, flow.edges)
    assert sum(path.tokens_per_s for path in paths) == pytest.approx(flow.value, abs=TOLERANCE)
    for path in paths:
        layers = [layer for hop in path.hops for layer in range(hop.layers.start, hop.layers.stop)]
        assert layers == list(range(problem.num_layers))
        assert all(placement[hop.node].covers(hop.layers) for hop in path.hops)
    carried = dict.fromkeys(((edge.tail, edge.head) for edge in flow.edges), 0.0)
    for path in paths:
        names = [COORDINATOR, *(hop.node for hop in path.hops), COORDINATOR]
        for link in pairwise(names):
            carried[link] += path.tokens_per_s
    for edge in flow.edges:
        assert carried[edge.tail, edge.head] == pytest.approx(edge.tokens_per_s, abs=TOLERANCE)


@given(placed_problems())
def test_partial_inference_never_costs_flow(placed: Placed) -> None:
    problem, placement = placed
    exact = placement_flow(replace(problem, partial_inference=False), placement).value
    partial = placement_flow(replace(problem, partial_inference=True), placement).value
    assert partial >= exact - TOLERANCE


@given(placed_problems(), st.randoms(use_true_random=False))
def test_names_and_order_of_nodes_dont_matter(placed: Placed, random: object) -> None:
    problem, placement = placed
    names = [node.name for node in problem.nodes]
    others = [f"m{i}" for i in range(len(names))]
    random.shuffle(others)  # type: ignore[attr-defined]
    rename = dict(zip(names, others, strict=True)) | {COORDINATOR: COORDINATOR}
    table = problem.links
    links = LinkTable(
        {rename[name]: region for name, region in table.regions.items()},
        table.default,
        table.by_region,
        {(rename[a], rename[b]): link for (a, b), link in table.by_node.items()},
    )
    nodes = tuple(sorted((replace(node, name=rename[node.name]) for node in problem.nodes), key=lambda node: node.name))
    renamed = replace(problem, nodes=nodes, links=links)
    moved = {rename[name]: layers for name, layers in placement.items()}
    assert placement_flow(renamed, moved).value == pytest.approx(
        placement_flow(problem, placement).value, abs=TOLERANCE
    )
    assert covering_bound(renamed) == pytest.approx(covering_bound(problem))


@given(placed_problems())
def test_a_faster_link_never_costs_flow(placed: Placed) -> None:
    problem, placement = placed
    table = problem.links
    faster = LinkTable(
        table.regions,
        table.default or Link(1e6, 0.0),
        {pair: replace(link, bytes_per_s=2 * link.bytes_per_s) for pair, link in table.by_region.items()},
        table.by_node,
    )
    before = placement_flow(problem, placement).value
    assert placement_flow(replace(problem, links=faster), placement).value >= before - TOLERANCE


@given(placed_problems())
def test_no_flow_has_a_reason(placed: Placed) -> None:
    problem, placement = placed
    if placement_flow(problem, placement).value == 0:
        assert str(explain_no_flow(problem, placement))


@given(problems(max_nodes=3, max_layers=3))
def test_what_is_called_infeasible_is(problem: Problem) -> None:
    if placement_count(problem) > 400:
        return
    best = best_flow(problem)
    assert best <= covering_bound(problem) * (1 + 1e-9)
    if explain_infeasible(problem) is not None:
        assert best == 0
