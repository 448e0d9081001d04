"""``auto``: baselines, then ``cover``, then the MIP where it is small enough to prove something."""

from __future__ import annotations

from dataclasses import replace

from helix_df.errors import SolverError
from helix_df.graph.problem import Problem
from helix_df.solvers.api import SolveOptions, SolveResult, Termination, Watch
from helix_df.solvers.baselines import Candidate, best_baseline
from helix_df.solvers.cover import CoverOptions, CoverSearch
from helix_df.solvers.mip import MipOptions, MipSearch, choose_backend, what_mip_lacks
from helix_df.solvers.options import read_extra

MIP_NODES = 100
"""Nodes up to which the MIP is tried; beyond, even its first relaxation takes minutes and proves nothing."""

TINY_NODES = 12
"""Nodes up to which the MIP gets most of the time, because it can end; beyond, ``cover`` gets it."""


class AutoSolver:
    """Every baseline, then ``cover`` from the best, then the MIP from the best of both, until a gap is proven.

    Options and backend are those of ``mip``. Deterministic as long as the time limit cuts nothing off.
    """

    name = "auto"
    own_options = MipOptions
    weighs_moves = True

    def solve(self, problem: Problem, options: SolveOptions, watch: Watch) -> SolveResult:
        own = read_extra(self.name, options.extra, MipOptions)
        backend = choose_backend(options)
        if not own.warm_start:
            raise SolverError(
                "auto always starts from the baselines", where="solver.options.warm_start", hint="use the solver mip"
            )
        started_s = watch.elapsed_s()
        deadline_s = started_s + options.time_limit_s
        tiny = len(problem.nodes) <= TINY_NODES
        with_mip = len(problem.nodes) <= MIP_NODES and options.near is None and what_mip_lacks(problem) is None
        share = 0.3 if tiny else 0.8 if with_mip else 1.0
        # Few attempts where the MIP proves the rest; many where nothing else will find more.
        effort = CoverOptions(restarts=2, iterations=500, polish=1000) if tiny else CoverOptions()
        plain = replace(options, extra={}, backend=None)
        start = best_baseline(problem, plain, watch)
        cover = CoverSearch(problem, plain, effort, watch, started_s + share * options.time_limit_s, start)
        ending = cover.run()
        if ending in ("optimal", "gap", "interrupt", "infeasible") or not with_mip:
            return SolveResult(cover.best, Termination.of(ending, cover.bound, cover.detail))
        best = Candidate(cover.best, cover.flow, cover.incumbent.source) if cover.best is not None else None
        return MipSearch(problem, options, own, backend, watch, best).run(deadline_s)
