"""Whatever a solver returns becomes a plan that nothing is wrong with, and the exact one finds the best."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from helix_df.errors import Infeasible
from helix_df.graph.bounds import covering_bound
from helix_df.graph.problem import Problem
from helix_df.plan.plan import Plan, from_document, to_document
from helix_df.plan.violations import violations
from helix_df.planning import make_plan
from helix_df.solvers.api import SolveOptions, Watch
from helix_df.solvers.mip import BACKENDS
from helix_df.solvers.planner import solve_problem
from helix_df.solvers.registry import get_solver
from property_tests.brute_force import best_flow, placement_count
from property_tests.strategies import job_for, problems

TIME_LIMIT_S = 30.0
"""Far more than these problems take: a test that meets it has found a bug."""

# Each MIP starts a process, so few examples, and no shrinking to minutes of them.
few = settings(max_examples=12, suppress_health_check=list(HealthCheck))
tiny = problems(max_nodes=3, max_layers=3, servable=True)


def plan_or_none(problem: Problem, solver: str, **options: object) -> Plan | None:
    try:
        return make_plan(job_for(problem, solver, **options), problem=problem)
    except Infeasible:
        return None


@pytest.mark.parametrize("solver", ["even", "swarm", "petals", "separate"])
@given(problem=problems())
def test_every_plan_of_a_baseline_is_right(solver: str, problem: Problem) -> None:
    plan = plan_or_none(problem, solver)
    if plan is not None:
        assert violations(plan, problem) == []
        assert from_document(to_document(plan)) == plan


@given(problem=problems(servable=True))
def test_even_and_mixed_always_plan_where_everybody_is_linked(problem: Problem) -> None:
    assert plan_or_none(problem, "even") is not None
    assert plan_or_none(problem, "separate", options={"mixed": True}) is not None


@pytest.mark.parametrize("solver", ["even", "swarm", "petals", "separate"])
@given(problem=problems())
def test_a_baseline_is_deterministic(solver: str, problem: Problem) -> None:
    options = SolveOptions(seed=3)
    first, second = (get_solver(solver).solve(problem, options, Watch()) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("effort", [{}, {"enumerate": 0, "restarts": 8, "polish": 2000}], ids=["all", "search"])
@given(problem=problems(max_nodes=6, max_layers=8))
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
def test_cover_finds_the_best_of_few_placements(effort: dict[str, int], problem: Problem) -> None:
    """With and without partial inference, whatever the links; by trying all, and by the search alone."""
    assume(placement_count(problem) <= 1000)
    best = best_flow(problem)
    plan = plan_or_none(problem, "cover", options=effort)
    assert (plan.flow if plan else 0.0) == pytest.approx(best, rel=1e-6, abs=1e-3)
    if plan is not None:
        assert violations(plan, problem) == []
        assert plan.flow <= plan.certificate.bound


@given(problem=problems(max_nodes=9, max_layers=20, servable=True))
@settings(max_examples=30, suppress_health_check=list(HealthCheck))
def test_a_plan_of_cover_is_right_and_the_same_again(problem: Problem) -> None:
    effort = {"restarts": 2, "iterations": 100, "polish": 200}
    plan = plan_or_none(problem, "cover", options=effort)
    assert plan is not None
    assert violations(plan, problem) == []
    again = plan_or_none(problem, "cover", options=effort)
    assert again is not None
    assert again.placement == plan.placement


@pytest.mark.parametrize("backend", BACKENDS)
@given(problem=tiny, warm_start=st.booleans())
@few
def test_mip_finds_the_best_placement(backend: str, problem: Problem, warm_start: bool) -> None:
    assume(placement_count(problem) <= 3000)
    plan = plan_or_none(
        problem,
        "mip",
        backend=backend,
        time_limit=f"{TIME_LIMIT_S}s",
        options={"warm_start": warm_start, "max_links_per_node": 0},
    )
    assert plan is not None
    assert violations(plan, problem) == []
    best = best_flow(problem)
    assert plan.flow == pytest.approx(best, rel=1e-4)
    assert plan.solver.reason == "optimal"
    assert plan.solver.bound is not None
    assert best <= plan.solver.bound * (1 + 1e-6) + 1e-6


@given(problem=problems(max_nodes=4, max_layers=4))
@few
def test_auto_plans_whatever_can_be_served(problem: Problem) -> None:
    assume(placement_count(problem) <= 3000)
    best = best_flow(problem)
    plan = plan_or_none(problem, "auto", time_limit=f"{TIME_LIMIT_S}s")
    assert (plan is not None) == (best > 0)
    if plan is not None:
        assert violations(plan, problem) == []
        assert plan.flow == pytest.approx(best, rel=1e-4)


@given(problem=problems(max_nodes=5, max_layers=6, servable=True), links=st.integers(1, 3))
@few
def test_a_pruned_mip_is_never_worse_than_its_start(problem: Problem, links: int) -> None:
    options = SolveOptions(TIME_LIMIT_S, extra={"max_links_per_node": links})
    heard: list[float] = []
    watch = Watch(lambda incumbent: heard.append(incumbent.flow or 0.0))
    _, flow, termination, *_ = solve_problem(problem, get_solver("mip"), options, watch)
    assert flow.value >= max(heard) - 1e-9
    assert heard == sorted(heard)
    assert termination.bound is not None
    assert flow.value <= termination.bound * (1 + 1e-6)
    assert termination.bound <= covering_bound(problem) * (1 + 1e-6)
