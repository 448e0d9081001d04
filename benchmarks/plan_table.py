"""One table: what every rule and solver plans on the paper's clusters and on large random ones.

python -m benchmarks.plan_table [--seconds 60] [--large-seconds 120] [CASE …]

Columns: flow in tokens/s, the best bound and the gap to it, the mean number of nodes a request visits, how many mean
requests (750 + 240 tokens) find KV cache on the layer with least of it, and seconds to plan.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.generate import random_cluster
from benchmarks.rules import memory_proportional, pipelines_like_parallax
from helix_df.errors import Infeasible
from helix_df.graph.bounds import best_bound
from helix_df.graph.compile import compile_problem
from helix_df.graph.flow import decompose
from helix_df.graph.limits import requests_at_once
from helix_df.graph.max_flow import placement_flow
from helix_df.graph.problem import Placement, Problem
from helix_df.load import load_job
from helix_df.solvers.api import SolveOptions, Watch
from helix_df.solvers.planner import solve_problem
from helix_df.solvers.registry import get_solver

EXAMPLES = Path(__file__).parent.parent / "spec/examples"
LARGE = 100
"""Nodes from which a case counts as large; the MIP is left out there."""

CASES: dict[str, Callable[[], Problem]] = {
    "single24": lambda: compile_problem(load_job(EXAMPLES / "single24.yaml")),
    "geo24": lambda: compile_problem(load_job(EXAMPLES / "geo24.yaml")),
    "hetero42": lambda: compile_problem(load_job(EXAMPLES / "hetero42.yaml")),
    "random200": lambda: random_cluster(200),
    "random1000": lambda: random_cluster(1000),
    "random200-126": lambda: random_cluster(200, seed=1, num_layers=126),
    "random1000-126": lambda: random_cluster(1000, seed=1, num_layers=126),
}


def solved_by(name: str, seconds: float, **extra: object) -> Callable[[Problem], Placement]:
    def place(problem: Problem) -> Placement:
        return solve_problem(problem, get_solver(name), SolveOptions(seconds, extra=extra), Watch())[0]

    return place


def contestants(problem: Problem, seconds: float) -> dict[str, Callable[[Problem], Placement]]:
    small = len(problem.nodes) < LARGE
    return {
        "even": solved_by("even", seconds),
        "∝ memory": memory_proportional,
        "petals": solved_by("petals", seconds),
        "swarm": solved_by("swarm", seconds),
        "separate": solved_by("separate", seconds, mixed=True),
        "Parallax-like": pipelines_like_parallax,
        **({"mip, cold": solved_by("mip", seconds, warm_start=False)} if small else {}),
        "auto": solved_by("auto", seconds),
    }


def row(name: str, place: Callable[[Problem], Placement], problem: Problem, bound: float) -> str:
    started = time.perf_counter()
    try:
        placement = place(problem)
    except Infeasible:
        placement = {}
    seconds = time.perf_counter() - started
    flow = placement_flow(problem, placement)
    if flow.value <= 0:
        return f"| {name} | none | | | | {seconds:.1f} |"
    paths = decompose(placement, flow.edges)
    depth = sum(len(path.hops) * path.tokens_per_s for path in paths) / flow.value
    requests = requests_at_once(problem, placement)
    gap = (bound - flow.value) / bound
    return f"| {name} | {flow.value:,.1f} | {gap:.1%} | {depth:.1f} | {requests:,} | {seconds:.1f} |"


def peak_mib() -> str:
    """The most memory that this process, and the largest of its children, had so far."""
    own, child = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return f"peak memory so far {own:.0f} MiB, of the largest child {child:.0f} MiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--large-seconds", type=float, default=120.0)
    parser.add_argument("cases", nargs="*", default=list(CASES))
    arguments = parser.parse_args()
    for case in arguments.cases:
        problem = CASES[case]()
        bound = best_bound(problem)
        limit = arguments.seconds if len(problem.nodes) < LARGE else arguments.large_seconds
        print(f"\n**{case}**: {len(problem.nodes)} nodes, {problem.num_layers} layers; ", end="")
        print(f"bound {bound.bound:,.1f} ({bound.kind}), at most {limit:.0f} s each\n")
        print("| | flow | gap | depth | KV requests | seconds |\n|---|---|---|---|---|---|")
        for name, place in contestants(problem, limit).items():
            print(row(name, place, problem, bound.bound), flush=True)
        print(f"\n{peak_mib()}")


if __name__ == "__main__":
    main()
