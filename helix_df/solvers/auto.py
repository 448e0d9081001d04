"""``auto``: the best of the baselines, then the MIP for the time that is left."""

from __future__ import annotations

from helix_df.errors import SolverError
from helix_df.graph.bounds import covering_bound
from helix_df.graph.problem import Problem
from helix_df.solvers.api import SolveOptions, SolveResult, Termination, Watch
from helix_df.solvers.mip import MipOptions, MipSearch, choose_backend, reason_to_stop
from helix_df.solvers.options import read_extra
from helix_df.solvers.portfolio import best_baseline

MIP_NODES = 100
"""Nodes up to which the MIP is tried; beyond, even its first relaxation takes minutes and proves nothing."""


class AutoSolver:
    """Try every baseline, keep the best, and let the MIP improve it until the time is up or the gap is proven.

    Options and backend are those of ``mip``. Deterministic as ``mip`` is; without a MIP (a baseline proven good enough,
    or too many nodes) always.
    """

    name = "auto"

    def solve(self, problem: Problem, options: SolveOptions, watch: Watch) -> SolveResult:
        own = read_extra(self.name, options.extra, MipOptions)
        backend = choose_backend(options)
        if not own.warm_start:
            raise SolverError(
                "auto always starts from the baselines", where="solver.options.warm_start", hint="use the solver mip"
            )
        deadline_s = watch.elapsed_s() + options.time_limit_s
        start = best_baseline(problem, options, watch)
        bound = covering_bound(problem)
        reason = reason_to_stop(start.flow if start else 0.0, bound, options, watch)
        if reason is not None or len(problem.nodes) > MIP_NODES:
            detail = start.source if start else "no baseline found a placement"
            return SolveResult(start.placement if start else None, Termination(reason or "finished", bound, detail))
        return MipSearch(problem, options, own, backend, watch, start).run(deadline_s)
