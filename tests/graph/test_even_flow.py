"""The flow that plans carry, on graphs small enough to check by hand; and on a large one, with its few pieces."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.generate import random_cluster
from helix_df.graph import even_flow
from helix_df.graph.even_flow import COST_PRESETS, DENSE, STEPS, WAYS, spread_flow
from helix_df.graph.flow_graph import build_graph
from helix_df.graph.max_flow import placement_flow
from helix_df.graph.problem import COORDINATOR, Link, Placement
from helix_df.layers import LayerRange
from helix_df.solvers.api import SolveOptions, SolveResult, Termination, Watch
from helix_df.solvers.petals import PetalsSolver
from helix_df.solvers.planner import solve_problem
from tests.problems import ACTIVATION_BYTES, node, problem

FUNNEL: Placement = {
    "a": LayerRange(0, 1),
    "b": LayerRange(0, 1),
    "c": LayerRange(0, 1),
    "end": LayerRange(1, 2),
}
"""Three nodes that each could feed the last one alone."""


def test_alike_nodes_before_a_bottleneck_share_it() -> None:
    given = problem(2, *(node(name, 90) for name in "abc"), node("end", 90))
    corner, flow = placement_flow(given, FUNNEL), spread_flow(given, FUNNEL)
    assert (flow.value, flow.cut) == (corner.value, corner.cut)
    for name in "abc":
        assert flow.through(name) == pytest.approx(30, abs=90 / STEPS)


def test_a_slow_link_is_spared() -> None:
    slow = Link(31 * ACTIVATION_BYTES, 0.0)
    given = problem(2, *(node(name, 90) for name in "abc"), node("end", 90), links=[("a", "end", slow)])
    flow = spread_flow(given, FUNNEL)
    assert flow.value == pytest.approx(90)
    assert 0 < flow.through("a") < 25
    assert flow.through("b") == pytest.approx(flow.through("c"), abs=90 / STEPS)


def test_plans_carry_it_unless_a_solver_knows_better() -> None:
    given = problem(2, *(node(name, 90) for name in "abc"), node("end", 90))

    class Fixed:
        name = "fixed"

        def __init__(self, result: SolveResult) -> None:
            self.result = result

        def solve(self, problem: object, options: SolveOptions, watch: Watch) -> SolveResult:
            return self.result

    def edges(result: SolveResult) -> object:
        return solve_problem(given, Fixed(result), SolveOptions(), Watch())[1].edges

    done = Termination("finished")
    assert edges(SolveResult(FUNNEL, done)) == spread_flow(given, FUNNEL).edges
    assert edges(SolveResult(FUNNEL, done, "any")) == placement_flow(given, FUNNEL).edges


@pytest.mark.parametrize("many", [even_flow.MANY, DENSE])
@pytest.mark.parametrize("spread", COST_PRESETS)
def test_a_dense_graph_has_a_maximum_flow_too(spread, many, monkeypatch) -> None:
    monkeypatch.setattr(even_flow, "MANY", many)
    given = random_cluster(400)
    placement = PetalsSolver().solve(given, SolveOptions(extra={"rounds": 1}), Watch()).placement
    graph = build_graph(given, placement)
    assert len(graph.edges) > DENSE
    flow = spread_flow(given, placement, spread)
    if many == DENSE:
        ways = Counter(edge.tail for edge in flow.edges if edge.tail != COORDINATOR)
        corner = Counter(edge.tail for edge in placement_flow(given, placement).edges)
        assert all(ways[name] <= WAYS + corner[name] for name in ways)
    limit = {(edge.tail, edge.head): edge.capacity for edge in graph.edges}
    assert all(0 < edge.tokens_per_s <= limit[edge.tail, edge.head] for edge in flow.edges)
    assert flow.through(COORDINATOR) == pytest.approx(flow.value)
    for one in graph.nodes:
        left = sum(edge.tokens_per_s for edge in flow.edges if edge.tail == one.name)
        assert left == pytest.approx(flow.through(one.name), abs=1e-3)
        assert left <= one.capacity * (1 + 1e-9)
