"""How close plans come to their bounds: with and without a limit on hops, and on clusters of up to 10,000 nodes.

python -m benchmarks.limits_table [--seconds 60] [--huge-seconds 300] [CASE …]

Plans of ``auto``, each in a process of its own. Columns: hops that the plan is limited to, flow in tokens/s, the best
bound with its kind and the gap to it, seconds after which the placement was found, seconds to plan in all (bound and
spread flow included), and peak memory of the process and of its largest child together, in MiB.
"""

from __future__ import annotations

import argparse
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context

from benchmarks.generate import random_cluster
from benchmarks.plan_table import CASES
from helix_df.graph.bounds import Bound, best_bound
from helix_df.graph.problem import Problem
from helix_df.solvers.api import Incumbent, SolveOptions, Watch
from helix_df.solvers.planner import solve_problem
from helix_df.solvers.registry import get_solver

SEEDED: dict[str, tuple[int, int]] = {
    f"random{count}-seed{seed}": (count, seed) for count in (200, 1000) for seed in (1, 2)
} | {f"random10000-seed{seed}": (10_000, seed) for seed in (0, 1, 2)}
"""Random clusters beside those of ``plan_table``: nodes and seed. Planned without a limit on hops alone."""

HOPS = 10
"""That the cases of ``plan_table`` are limited to once more."""

HUGE = 5000
"""Nodes from which a case counts as huge."""


@dataclass(frozen=True, slots=True)
class LimitRow:
    """A planned case."""

    case: str
    max_hops: int | None
    flow: float
    bound: Bound
    found_s: float
    seconds: float
    peak_mib: float

    def __str__(self) -> str:
        gap = (self.bound.bound - self.flow) / self.bound.bound
        hops = "any" if self.max_hops is None else f"≤ {self.max_hops}"
        return (
            f"| {self.case} | {hops} | {self.flow:,.1f} | {self.bound.bound:,.1f} ({self.bound.kind}) | {gap:.1%} "
            f"| {self.found_s:.1f} | {self.seconds:.1f} | {self.peak_mib:,.0f} |"
        )


def problem_of(case: str, max_hops: int | None) -> Problem:
    """The problem of a case, under a limit on hops if there is one."""
    problem = CASES[case]() if case in CASES else random_cluster(*SEEDED[case])
    return replace(problem, limits=replace(problem.limits, max_hops=max_hops))


def plan_case(case: str, max_hops: int | None, seconds: float, huge_seconds: float) -> LimitRow:
    """Plan a case; meant for a fresh process, whose peak memory is taken."""
    problem = problem_of(case, max_hops)
    heard = [Incumbent(0.0, 0.0, None, "")]

    def hear(incumbent: Incumbent) -> None:
        if (incumbent.flow or 0.0) > (heard[-1].flow or 0.0):
            heard.append(incumbent)

    started = time.perf_counter()
    bound = best_bound(problem)
    options = SolveOptions(huge_seconds if len(problem.nodes) >= HUGE else seconds)
    judged = solve_problem(problem, get_solver("auto"), options, Watch(hear))
    took = time.perf_counter() - started
    peaks = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return LimitRow(case, max_hops, judged.flow.value, bound, heard[-1].elapsed_s, took, sum(peaks))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--huge-seconds", type=float, default=300.0)
    parser.add_argument("cases", nargs="*", default=[*CASES, *SEEDED])
    arguments = parser.parse_args()
    print("| cluster | hops | flow | bound | gap | found after, s | seconds | peak MiB |")
    print("|---|---|---|---|---|---|---|---|")
    for case in arguments.cases:
        for max_hops in (None, HOPS) if case in CASES else (None,):
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                row = process.submit(plan_case, case, max_hops, arguments.seconds, arguments.huge_seconds).result()
            print(row, flush=True)


if __name__ == "__main__":
    main()
