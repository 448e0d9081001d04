"""The baselines do what their papers say, and at least as well as published."""

from __future__ import annotations

import pytest

from helix_df.graph.max_flow import placement_flow
from helix_df.graph.problem import COORDINATOR, Placement, Problem
from helix_df.layers import LayerRange
from helix_df.solvers.api import SolveOptions, Watch
from helix_df.solvers.chain_search import find_chain
from helix_df.solvers.chains import balanced_lengths, even_lengths
from helix_df.solvers.registry import get_solver
from tests.clusters import CLUSTERS, cluster, published
from tests.problems import FAST, node, problem


def place(given: Problem, solver: str, **extra: object) -> Placement:
    placement = get_solver(solver).solve(given, SolveOptions(extra=extra), Watch()).placement
    assert placement is not None
    return placement


@pytest.mark.parametrize("solver", ["swarm", "petals"])
@pytest.mark.parametrize("name", CLUSTERS)
def test_at_least_as_good_as_published(name: str, solver: str) -> None:
    _, _, flow = published(name, solver)
    assert placement_flow(cluster(name), place(cluster(name), solver)).value >= flow


def test_the_mixed_pipeline_reaches_the_bound_of_single24() -> None:
    given = cluster("single24")
    assert placement_flow(given, place(given, "separate", mixed=True)).value == pytest.approx(2045.641, abs=0.01)


def test_even_clips_to_what_fits_and_shares_the_rest() -> None:
    given = problem(9, node("a", *[9] * 9), node("b", 9), node("c", *[9] * 9))
    assert [len(layers) for layers in place(given, "even").values()] == [4, 1, 4]


def test_even_makes_copies_where_nodes_outnumber_layers() -> None:
    given = problem(2, *(node(f"n{i}", 9, 5) for i in range(6)))
    placement = place(given, "even")
    assert len(placement) == 6
    assert placement_flow(given, placement).value == pytest.approx(27)
    assert placement_flow(given, place(given, "even", pipelines=6)).value == pytest.approx(30)


def test_even_follows_the_links() -> None:
    names = "dbca"
    links = [(COORDINATOR, "a", FAST), ("a", "b", FAST), ("b", "c", FAST), ("c", "d", FAST), ("d", COORDINATOR, FAST)]
    given = problem(4, *(node(name, 9) for name in names), default=None, links=links)
    assert placement_flow(given, place(given, "even")).value == pytest.approx(9)


def test_separate_keeps_types_apart() -> None:
    nodes = [node(f"l{i}", 9, 8, gpu="L4") for i in range(2)] + [node(f"t{i}", 5, 4, gpu="T4") for i in range(2)]
    given = problem(4, *nodes, node("v", 1, gpu="V100"))
    placement = place(given, "separate")
    assert set(placement) == {"l0", "l1", "t0", "t1"}
    assert placement_flow(given, placement).value == pytest.approx(12)


def test_swarm_sizes_stages_by_the_weakest_and_balances() -> None:
    given = problem(4, node("a", 9, 8, 7, 6), node("b", 9, 4), node("c", 9, 4))
    placement = place(given, "swarm")
    assert placement["a"] in (LayerRange(0, 2), LayerRange(2, 4))
    assert placement["b"] == placement["c"] != placement["a"]
    assert placement_flow(given, placement).value == pytest.approx(8)


def test_swarm_leaves_out_what_would_make_too_many_stages() -> None:
    given = problem(4, node("a", 9, 8), node("b", 9, 4), node("weak", 9))
    assert set(place(given, "swarm")) == {"a", "b"}


def test_petals_fills_the_weakest_window() -> None:
    given = problem(4, node("a", 9, 8), node("b", 9, 6), node("c", 9, 1))
    placement = place(given, "petals")
    assert placement["a"] != placement["b"]
    assert placement["c"] == placement["b"]


@pytest.mark.parametrize(
    ("limits", "layers", "expected"),
    [([4, 4], 8, (4, 4)), ([9, 9, 9], 8, (3, 3, 2)), ([1, 9], 8, (1, 7)), ([1, 1, 1], 2, (1, 1, 0)), ([3], 4, None)],
)
def test_even_lengths(limits: list[int], layers: int, expected: tuple[int, ...] | None) -> None:
    assert even_lengths(limits, layers) == expected


def test_balanced_lengths_serve_what_the_slowest_can() -> None:
    nodes = [node("fast", 90, 45, 30, 22), node("slow", 20, 10, 5)]
    assert balanced_lengths(problem(5, *nodes), nodes) == (4, 1)
    assert balanced_lengths(problem(8, *nodes), nodes) is None


def test_a_chain_backtracks_at_dead_ends() -> None:
    better = FAST.__class__(2e9, 0.001)
    links = [
        (COORDINATOR, "a", FAST),
        ("a", "dead", better),
        ("a", "b", FAST),
        ("b", COORDINATOR, FAST),
    ]
    given = problem(2, node("a", 9), node("b", 9), node("dead", 9), default=None, links=links)
    chain = find_chain(given, given.nodes)
    assert chain is not None
    assert [n.name for n in chain] == ["a", "b"]
