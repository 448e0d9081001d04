"""Time to plan, and the flow that comes of it, for every solver on the clusters of the Helix paper and random ones.

Run with ``pytest benchmarks/bench_solvers.py``; the flow is in the extra info of ``--benchmark-json``.
"""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.generate import random_cluster
from helix_df.graph.bounds import best_bound
from helix_df.graph.problem import Problem
from helix_df.solvers.api import SolveOptions, Watch
from helix_df.solvers.planner import Judged, solve_problem
from helix_df.solvers.registry import get_solver
from tests.clusters import CLUSTERS, cluster

MIP_TIME_LIMIT_S = 10.0

BASELINES = [
    pytest.param("even", {}, id="even"),
    pytest.param("swarm", {}, id="swarm"),
    pytest.param("petals", {}, id="petals"),
    pytest.param("separate", {"mixed": True}, id="separate-mixed"),
]


def measure(benchmark: Any, problem: Problem, name: str, options: SolveOptions) -> None:
    def plan() -> Judged:
        return solve_problem(problem, get_solver(name), options, Watch())

    _, flow, termination, _ = benchmark.pedantic(plan, rounds=1)
    benchmark.extra_info["flow"] = flow.value
    benchmark.extra_info["bound"] = best_bound(problem).bound
    benchmark.extra_info["reason"] = termination.reason


@pytest.mark.parametrize("name", CLUSTERS)
@pytest.mark.parametrize(("solver", "extra"), BASELINES)
def test_baselines(benchmark: Any, name: str, solver: str, extra: dict[str, object]) -> None:
    measure(benchmark, cluster(name), solver, SolveOptions(extra=extra))


@pytest.mark.parametrize("count", [200, 1000])
@pytest.mark.parametrize(("solver", "extra"), BASELINES)
def test_baselines_at_scale(benchmark: Any, count: int, solver: str, extra: dict[str, object]) -> None:
    measure(benchmark, random_cluster(count), solver, SolveOptions(extra=extra))


@pytest.mark.parametrize("name", CLUSTERS)
@pytest.mark.parametrize("backend", ["highs", "gscip", "cp-sat"])
def test_mip(benchmark: Any, name: str, backend: str) -> None:
    measure(benchmark, cluster(name), "mip", SolveOptions(MIP_TIME_LIMIT_S, backend=backend))


@pytest.mark.parametrize("name", CLUSTERS)
def test_auto(benchmark: Any, name: str) -> None:
    measure(benchmark, cluster(name), "auto", SolveOptions(MIP_TIME_LIMIT_S))


@pytest.mark.parametrize(("count", "num_layers"), [(200, 80), (1000, 80), (200, 126), (1000, 126)])
def test_cover_to_a_gap_of_ten_percent(benchmark: Any, count: int, num_layers: int) -> None:
    measure(benchmark, random_cluster(count, num_layers=num_layers), "cover", SolveOptions(120.0, gap=0.1))


@pytest.mark.parametrize(("name", "gap"), [("single24", 0.0), ("geo24", 0.15), ("hetero42", 0.1)])
def test_cover_on_the_papers_clusters(benchmark: Any, name: str, gap: float) -> None:
    measure(benchmark, cluster(name), "cover", SolveOptions(60.0, gap=gap))
