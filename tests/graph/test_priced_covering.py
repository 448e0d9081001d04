"""The priced covering bound on clusters whose best flow is known, and the search for its prices."""

from __future__ import annotations

import numpy as np
import pytest
from ortools.linear_solver import pywraplp

from benchmarks.generate import random_cluster
from helix_df.graph.bounds import covering_bound, priced_covering_bound
from helix_df.graph.capacities import Floats
from helix_df.graph.max_flow import placement_flow
from helix_df.graph.price_search import maximum
from helix_df.graph.priced_covering import (
    GRID,
    MOST,
    Cluster,
    LayerTable,
    covering_prices,
    crossing_capacity,
    describe,
    dual_bound,
)
from helix_df.graph.problem import Link, Problem
from helix_df.graph.sites import find_sites
from helix_df.layers import LayerRange
from helix_df.solvers.api import SolveOptions, Watch
from helix_df.solvers.cover import CoverSolver
from tests.clusters import cluster
from tests.problems import ACTIVATION_BYTES, node, problem

SLOW = Link(10 * ACTIVATION_BYTES, 0.05)
"""10 tokens/s."""


def bound(given: Problem) -> float:
    return priced_covering_bound(given, covering_bound(given))


def described_by_sites(given: Problem) -> Cluster:
    return describe(given, find_sites(given).members)[0]


@pytest.mark.parametrize("partial", [True, False])
@pytest.mark.parametrize("name", ["single24", "geo24"])
def test_it_is_what_cover_reaches(name: str, partial: bool) -> None:
    given = cluster(name, partial=partial)
    result = CoverSolver().solve(given, SolveOptions(extra={"restarts": 1}), Watch())
    flow = placement_flow(given, result.placement or {}).value
    assert flow <= bound(given) <= flow * (1 + 1e-6)


def test_whole_nodes_bind_where_fractions_would_not() -> None:
    # Two layers want 60 tokens/s each: no two of these nodes give as much, so each layer takes three of the five.
    given = problem(2, *(node(name, 29) for name in "abcde"))
    assert covering_bound(given) == pytest.approx(72.5)
    assert bound(given) == pytest.approx(58, rel=3 / GRID)
    halves = {name: LayerRange(i % 2, i % 2 + 1) for i, name in enumerate("abcde")}
    assert placement_flow(given, halves).value == pytest.approx(58)


def two_sites(*tokens_per_s: float) -> Problem:
    """Four layers on two sites of two nodes each."""
    names = "abcd"
    slow = [(left, right, SLOW) for left in "ab" for right in "cd"]
    return problem(4, *(node(name, *tokens_per_s) for name in names), links=slow)


def test_a_token_that_crosses_between_single_nodes_has_one_link() -> None:
    given = two_sites(100)
    assert covering_bound(given) == pytest.approx(100)
    chain = {name: LayerRange(i, i + 1) for i, name in enumerate("abcd")}
    assert placement_flow(given, chain).value == pytest.approx(10)
    assert bound(given) == pytest.approx(10)


def test_sites_that_hold_the_model_need_no_links() -> None:
    given = two_sites(100, 40)
    assert described_by_sites(given).alone == pytest.approx(80)
    apart = {name: LayerRange(2 * i, 2 * i + 2) for pair in ("ab", "cd") for i, name in enumerate(pair)}
    assert placement_flow(given, apart).value == pytest.approx(80)
    assert 80 <= bound(given) < covering_bound(given)


def test_crossings_grow_with_nodes_and_stop_at_the_flow() -> None:
    described = described_by_sites(cluster("geo24"))
    best = float(described.links[1])
    assert crossing_capacity(described, 1, 1, best + 1) == 0
    assert crossing_capacity(described, 1, 1, best) == best
    assert crossing_capacity(described, 1, 2, 10 * best) == best
    assert crossing_capacity(described, 2, 2, 10 * best) == described.links[4]
    assert crossing_capacity(described, 2, 2, best) == best
    assert crossing_capacity(described, MOST, 1, 100 * best) == 100 * best


def test_prices_of_the_covering_bound_prove_the_covering_bound() -> None:
    given = cluster("hetero42")
    described, most = described_by_sites(given), covering_bound(given)
    assert dual_bound(described, covering_prices(described, 1.001 * most), 1.001 * most) > 1


def test_the_cheapest_layers_carry_the_flow_at_their_cost() -> None:
    described = described_by_sites(cluster("geo24"))
    flow = 1900.0
    table = LayerTable(described, covering_prices(described, flow), flow)
    costs = table.costs()
    for n in range(1, MOST + 1):
        options, rest = table.nodes(n)
        assert len(options) == n
        assert int(table.parts[options].sum()) + rest >= GRID
        assert table.cost[options].sum() + rest * table.per_part <= costs[n - 1] * (1 + 1e-9)


def test_the_same_bound_again() -> None:
    given = random_cluster(24)
    assert bound(given) == bound(given) < covering_bound(given)


def test_large_clusters_keep_the_covering_bound() -> None:
    given = random_cluster(1000)
    assert bound(given) == covering_bound(given)


def test_the_simplex_method_finds_what_glop_finds() -> None:
    chance = np.random.default_rng(0)
    for _ in range(30):
        rows = np.round(chance.uniform(-1, 3, size=(chance.integers(3, 12), chance.integers(2, 8))), 2)
        rows = np.concatenate([rows, np.ones((1, rows.shape[1]))])
        limits = np.maximum(0.0, np.round(chance.uniform(-1, 2, size=len(rows)), 2))
        goal = np.round(chance.uniform(-1, 2, size=rows.shape[1]), 2)
        found = maximum(goal, rows, limits)
        assert (rows @ found <= limits + 1e-7).all()
        assert goal @ found == pytest.approx(glop(goal, rows, limits), abs=1e-6)


def glop(goal: Floats, rows: Floats, limits: Floats) -> float:
    solver = pywraplp.Solver.CreateSolver("GLOP")
    variables = [solver.NumVar(0.0, solver.infinity(), "") for _ in goal]
    for row, limit in zip(rows, limits, strict=True):
        solver.Add(sum(float(a) * y for a, y in zip(row, variables, strict=True)) <= float(limit))
    solver.Maximize(sum(float(g) * y for g, y in zip(goal, variables, strict=True)))
    assert solver.Solve() == solver.OPTIMAL
    return float(solver.Objective().Value())
