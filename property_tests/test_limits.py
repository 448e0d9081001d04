"""Limits are kept by every plan, cost no more flow than they must, and what is said of them is true."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from helix_df.errors import Infeasible
from helix_df.graph.bounds import best_bound, limited_covering_bound
from helix_df.graph.feasibility import explain_infeasible
from helix_df.graph.judge import Judge
from helix_df.graph.max_flow import placement_flow
from helix_df.graph.problem import COORDINATOR, Placement, PlacementLimits, Problem
from helix_df.plan.plan import Plan
from helix_df.plan.violations import violations
from helix_df.planning import make_plan
from helix_df.solvers.documents import decode, encode
from property_tests.brute_force import all_placements, placement_count
from property_tests.strategies import job_for, limited_problems, placements

small = settings(max_examples=40, suppress_health_check=list(HealthCheck))
tiny = limited_problems(max_nodes=4, max_layers=4)


def keeps_limits(problem: Problem, placement: Placement) -> bool:
    """Everything but the depth, counted layer by layer."""
    limits = problem.limits
    for layer in range(problem.num_layers):
        held = [node for node in problem.nodes if node.name in placement and layer in placement[node.name]]
        fit = sum(node.kv_tokens[len(placement[node.name]) - 1] // limits.request_tokens for node in held)
        if fit < limits.min_requests:
            return False
    return (
        limits.required <= placement.keys()
        and not limits.excluded & placement.keys()
        and all(placement.get(name) == layers for name, layers in limits.fixed.items())
    )


def best_allowed(problem: Problem) -> float:
    """The most flow of any placement that keeps the limits."""
    allowed = (placement for placement in all_placements(problem) if keeps_limits(problem, placement))
    return max((placement_flow(problem, placement).value for placement in allowed), default=0.0)


def deepest(plan: Plan) -> int:
    """Most nodes on any way that the plan's flow takes, whatever way a router chooses at each."""
    heads: dict[str, list[str]] = {}
    for edge in plan.edges:
        heads.setdefault(edge.tail, []).append(edge.head)

    def below(name: str) -> int:
        return max(0 if head == COORDINATOR else 1 + below(head) for head in heads[name])

    return below(COORDINATOR)


def plan_or_none(problem: Problem, solver: str, **options: object) -> Plan | None:
    try:
        return make_plan(job_for(problem, solver, **options), problem=problem)
    except Infeasible:
        return None


@pytest.mark.parametrize("solver", ["cover", "auto"])
@given(problem=tiny)
@small
def test_the_best_plan_within_limits_is_found(solver: str, problem: Problem) -> None:
    assume(placement_count(problem) <= 1000)
    best = best_allowed(problem)
    plan = plan_or_none(problem, solver)
    assert (plan.flow if plan else 0.0) == pytest.approx(best, rel=1e-4, abs=1e-3)
    if plan is not None:
        assert keeps_limits(problem, plan.placement)
        assert problem.limits.max_hops is None or deepest(plan) <= problem.limits.max_hops
        assert violations(plan, problem) == []


@given(problem=limited_problems(max_nodes=14, max_layers=12))
@settings(max_examples=15, suppress_health_check=list(HealthCheck))
def test_a_search_within_limits_keeps_them(problem: Problem) -> None:
    plan = plan_or_none(problem, "cover", options={"restarts": 2, "iterations": 100, "polish": 100, "enumerate": 0})
    if plan is not None:
        assert keeps_limits(problem, plan.placement)
        assert problem.limits.max_hops is None or deepest(plan) <= problem.limits.max_hops
        assert violations(plan, problem) == []


@pytest.mark.parametrize("solver", ["even", "swarm", "petals", "separate"])
@given(problem=limited_problems())
@small
def test_a_rule_keeps_limits_or_says_that_it_does_not(solver: str, problem: Problem) -> None:
    plan = plan_or_none(problem, solver)
    if plan is not None:
        assert keeps_limits(problem, plan.placement)
        assert problem.limits.max_hops is None or deepest(plan) <= problem.limits.max_hops
        assert violations(plan, problem) == []


@given(problem=limited_problems(), data=st.data(), per_hop=st.floats(0, 3), per_request=st.floats(0, 2))
@settings(max_examples=200, suppress_health_check=list(HealthCheck))
def test_no_placement_that_keeps_the_limits_beats_the_bound(
    problem: Problem, data: st.DataObject, per_hop: float, per_request: float
) -> None:
    placement = {**data.draw(placements(problem)), **problem.limits.fixed}
    assume(keeps_limits(problem, placement))
    flow = placement_flow(problem, placement).value
    assert flow <= best_bound(problem).bound * (1 + 1e-9) + 1e-6
    if problem.limits.max_hops is None:
        per_hop = 0.0
    assert flow <= limited_covering_bound(problem, per_hop, per_request) * (1 + 1e-9) + 1e-6


@given(problem=tiny)
@small
def test_what_is_called_impossible_is(problem: Problem) -> None:
    assume(placement_count(problem) <= 1000)
    if explain_infeasible(problem) is not None:
        assert best_allowed(problem) == 0.0


@given(problem=limited_problems(), data=st.data())
@settings(max_examples=200, suppress_health_check=list(HealthCheck))
def test_the_fast_judge_and_the_graph_agree_on_hops(problem: Problem, data: st.DataObject) -> None:
    # To the judge, pinned nodes serve nothing with other layers.
    placement = {**data.draw(placements(problem)), **problem.limits.fixed}
    judge = Judge(problem)
    flow = placement_flow(problem, placement)
    assert judge.flow(*judge.arrays(placement)) == pytest.approx(flow.value, abs=1e-4)
    free = placement_flow(replace(problem, limits=PlacementLimits()), placement)
    assert flow.value <= free.value + 1e-6


@given(problem=limited_problems())
@small
def test_a_problem_survives_its_document(problem: Problem) -> None:
    assert decode(Problem, json.loads(json.dumps(encode(problem)))) == problem
