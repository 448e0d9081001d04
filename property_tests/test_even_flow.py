"""Any spread of a maximum flow is a maximum flow; the even one is more even, the wide one spreads over more links."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helix_df.graph.even_flow import COST_PRESETS, LITTLE, PLANNED, STEPS, spread_flow
from helix_df.graph.flow import Flow
from helix_df.graph.flow_graph import FlowGraph, build_graph
from helix_df.graph.max_flow import placement_flow
from helix_df.graph.problem import COORDINATOR, Problem
from helix_df.plan.plan import SolverReport, assemble, from_document, to_document
from helix_df.plan.violations import violations
from property_tests.strategies import job_for, placements, problems

many = settings(max_examples=150, suppress_health_check=list(HealthCheck))


def loads(graph: FlowGraph, flow: Flow) -> dict[str, float]:
    """Tokens/s through every node; checks that each passes on what it gets."""
    through = dict.fromkeys([COORDINATOR, *(node.name for node in graph.nodes)], 0.0)
    left = dict(through)
    for edge in flow.edges:
        through[edge.head] += edge.tokens_per_s
        left[edge.tail] += edge.tokens_per_s
    assert left == pytest.approx(through, abs=1e-4)
    return through


@given(problem=problems(), data=st.data())
@many
def test_every_spread_is_a_maximum_flow(problem: Problem, data: st.DataObject) -> None:
    placement = data.draw(placements(problem))
    graph, flow = build_graph(problem, placement), placement_flow(problem, placement)
    capacity = {(edge.tail, edge.head): edge.capacity for edge in graph.edges}
    unevenness, narrowness, strain = {}, {}, {}
    ends = {node.name: node.capacity for node in graph.nodes}
    most = {pair: min(capacity[pair], *(ends[end] for end in pair if end in ends)) for pair in capacity}
    for spread in COST_PRESETS:
        found = spread_flow(problem, placement, spread)
        assert (found.value, found.cut) == (flow.value, flow.cut)
        through = loads(graph, found)
        assert through[COORDINATOR] == pytest.approx(flow.value, abs=1e-4)
        for edge in found.edges:
            assert 0 < edge.tokens_per_s <= capacity[edge.tail, edge.head] * (1 + 1e-9)
        for node in graph.nodes:
            assert through[node.name] <= node.capacity * (1 + 1e-9)
        unevenness[spread] = sum(through[node.name] ** 2 / node.capacity for node in graph.nodes if node.capacity)
        strain[spread] = unevenness[spread] + sum(
            edge.tokens_per_s**2 / capacity[edge.tail, edge.head] for edge in found.edges
        )
        narrowness[spread] = sum(edge.tokens_per_s**2 / most[edge.tail, edge.head] for edge in found.edges)
    # The pieces of a cost, and its rounding, leave it a little short of the least.
    slack = sum(node.capacity for node in graph.nodes) / STEPS
    assert unevenness["even-nodes"] <= unevenness["any"] + slack
    slack = sum(most.values()) / STEPS + 2 * LITTLE * sum(node.capacity for node in graph.nodes)
    assert narrowness["wide-links"] <= narrowness["any"] + slack
    slack = sum(node.capacity for node in graph.nodes) / STEPS + sum(most.values()) / STEPS
    assert strain["spare-links"] <= strain["any"] + slack


@given(problem=problems(), data=st.data())
@many
def test_plans_carry_a_spread_flow_and_any_maximum_flow_is_valid(problem: Problem, data: st.DataObject) -> None:
    """The planner's choice has no violations, and nor have plans of before, which carry the solver's own flow."""
    placement = data.draw(placements(problem))
    corner, planned = placement_flow(problem, placement), spread_flow(problem, placement)
    assert planned == spread_flow(problem, placement, PLANNED)
    assert (planned.value, planned.cut) == (corner.value, corner.cut)
    if corner.value > 0:
        for flow in (corner, planned):
            report = SolverReport("fixed", None, "finished", "", None, 0.0)
            plan = assemble(job_for(problem, "cover"), problem, placement, flow, report)
            assert violations(plan, problem) == []
            assert from_document(to_document(plan)) == plan
