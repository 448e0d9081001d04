"""Time to judge a placement: building its flow graph, the maximum flow with its cut, and the spread one.

Run with ``pytest benchmarks/bench_max_flow.py``.
"""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.generate import random_cluster
from helix_df.graph.bounds import best_bound, covering_bound
from helix_df.graph.even_flow import spread_flow
from helix_df.graph.flow_graph import build_graph
from helix_df.graph.judge import Judge
from helix_df.graph.max_flow import solve_max_flow
from helix_df.graph.problem import Placement, Problem
from helix_df.solvers.api import SolveOptions, Watch
from helix_df.solvers.petals import PetalsSolver

SIZES = (24, 200, 1000)


def placed(count: int) -> tuple[Problem, Placement]:
    problem = random_cluster(count)
    placement = PetalsSolver().solve(problem, SolveOptions(extra={"rounds": 1}), Watch()).placement
    assert placement is not None
    return problem, placement


@pytest.mark.parametrize("count", SIZES)
def test_build_graph(benchmark: Any, count: int) -> None:
    problem, placement = placed(count)
    graph = benchmark.pedantic(build_graph, (problem, placement), rounds=3)
    benchmark.extra_info["edges"] = len(graph.edges)


@pytest.mark.parametrize("count", SIZES)
def test_solve_max_flow(benchmark: Any, count: int) -> None:
    graph = build_graph(*placed(count))
    flow = benchmark.pedantic(solve_max_flow, (graph,), rounds=3)
    assert flow.value > 0


@pytest.mark.parametrize("count", SIZES)
def test_spread_flow(benchmark: Any, count: int) -> None:
    """Which maximum flow a plan has: the graph, the maximum flow and the cheapest one of its value."""
    problem, placement = placed(count)
    assert benchmark.pedantic(spread_flow, (problem, placement), rounds=3).value > 0


@pytest.mark.parametrize("count", SIZES)
def test_judge(benchmark: Any, count: int) -> None:
    """The flow's value alone, as searches ask for it."""
    problem, placement = placed(count)
    judge = Judge(problem)
    assert benchmark.pedantic(judge.flow, judge.arrays(placement), rounds=10) > 0


@pytest.mark.parametrize("count", SIZES)
def test_covering_bound(benchmark: Any, count: int) -> None:
    assert benchmark.pedantic(covering_bound, (random_cluster(count),), rounds=3) > 0


@pytest.mark.parametrize("count", SIZES)
def test_best_bound(benchmark: Any, count: int) -> None:
    assert benchmark.pedantic(best_bound, (random_cluster(count),), rounds=3).bound > 0
