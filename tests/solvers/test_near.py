"""Planning near what runs: weights that have to be loaded cost flow."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from helix_df.errors import Infeasible, SolverError
from helix_df.graph.max_flow import placement_flow
from helix_df.graph.problem import Problem
from helix_df.layers import LayerRange
from helix_df.plan.moves import GIB, Near, move_bytes
from helix_df.planning import make_plan
from helix_df.profiles.read_geometry import read_geometry
from helix_df.spec.source import parse_source
from property_tests.brute_force import all_placements, placement_count
from property_tests.strategies import job_for, placements, problems
from tests.problems import node, problem

GEOMETRY = read_geometry(parse_source("random:llama-2-70b"))


def near(placement, price: float) -> Near:
    return Near(placement, GEOMETRY, 2, price)


@given(problem=problems(max_nodes=3, max_layers=4), data=st.data(), price=st.sampled_from((0.0, 1.0, 30.0)))
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
def test_no_placement_is_worth_more(problem: Problem, data: st.DataObject, price: float) -> None:
    """Worth: the flow, less the price of the bytes that nodes have to load."""
    assume(placement_count(problem) <= 300)
    running = data.draw(placements(problem))

    def worth(placement):
        loaded = sum(move_bytes(running, placement, GEOMETRY, 2).values())
        return placement_flow(problem, placement).value - price * loaded / GIB

    best = max(worth(placement) for placement in all_placements(problem))
    try:
        plan = make_plan(job_for(problem, "cover"), problem=problem, near=near(running, price))
    except Infeasible:
        assert best <= 1e-3
        return
    assert worth(plan.placement) == pytest.approx(best, rel=1e-6, abs=1e-3)


def many() -> Problem:
    """14 alike nodes, so that names alone are there to choose."""
    return problem(14, *(node(f"n{i}", 10.0, 4.0) for i in range(14)))


def test_alike_nodes_keep_what_they_hold():
    """The best flow needs one layer a node; who holds which is free, so nobody should load anything."""
    given = many()
    running = {f"n{i}": LayerRange((5 * i) % 14, (5 * i) % 14 + 1) for i in range(14)}
    plan = make_plan(job_for(given, "cover"), problem=given, near=near(running, 0.01))
    assert plan.flow == 10.0
    assert dict(plan.placement) == running


def test_moves_that_gain_less_than_they_cost_are_not_made():
    given = many()
    running = {f"n{i}": LayerRange(2 * i, 2 * i + 2) for i in range(7)}  # 4 tokens/s; 10 would load 7 more layers
    quick = job_for(given, "cover", options={"restarts": 4, "iterations": 400, "polish": 200})
    cheap = make_plan(quick, problem=given, near=near(running, 0.001))
    dear = make_plan(quick, problem=given, near=near(running, 1000.0))
    assert cheap.flow == 10.0
    assert dear.flow == 4.0
    assert dict(dear.placement) == running


def test_a_solver_that_does_not_weigh_moves_says_so():
    given = many()
    with pytest.raises(SolverError, match="doesn't weigh moves"):
        make_plan(job_for(given, "even"), problem=given, near=near({}, 1.0))
