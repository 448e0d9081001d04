"""``goodput``: the placement that generates the most tokens/s in simulation, within the limits on latency.

Owns the choice among what the search found, and the words about it. Doesn't search (``search``).
"""

from __future__ import annotations

from collections.abc import Sequence

from helix_df.errors import Infeasible, SolverError
from helix_df.graph.problem import Problem
from helix_df.plan.goodput import Generated
from helix_df.solvers.api import Ending, SolveOptions, SolveResult, Termination, Watch
from helix_df.solvers.goodput.config import SearchConfig
from helix_df.solvers.goodput.evaluator import Evaluator
from helix_df.solvers.goodput.options import GoodputOptions
from helix_df.solvers.goodput.order import choose_order
from helix_df.solvers.goodput.placements import Scored, arrays, excess
from helix_df.solvers.goodput.search import VALIDATION, GoodputSearch
from helix_df.solvers.goodput.worker_pool import open_pool
from helix_df.solvers.options import read_extra, refuse_backend
from helix_df.spec.job import Limits


class GoodputSolver:
    """The most generated tokens/s when requests never run out, in simulation, within the limits on latency.

    Estimates find candidates, simulations choose among them, on every usable core. Work is counted: same job, options
    and seed give the same plan on any number of cores, unless the time limit or an interruption cuts the search off.
    ``--near`` prices moves in generated tokens/s.
    """

    name = "goodput"
    weighs_moves = True
    keeps_latency = True
    own_options = GoodputOptions

    def solve(self, problem: Problem, options: SolveOptions, watch: Watch) -> SolveResult:
        """As ``Solver.solve``.

        Raises:
            Infeasible: when nothing that was found keeps the limits on latency; tells how near the nearest comes.
            SolverError: for options that make no sense, and without a job, since a problem alone can't be simulated.
        """
        refuse_backend(self.name, options)
        own = read_extra(self.name, options.extra, GoodputOptions).within(options.time_limit_s)
        if options.job is None:
            raise SolverError(
                "goodput simulates, which needs the whole job",
                where="solver.name",
                hint="plan a job, or another solver",
            )
        evaluator = Evaluator(SearchConfig(options.job, own), problem, options.seed, options.near)
        with open_pool(own.workers) as pool:
            search = GoodputSearch(evaluator, pool, watch, options, float(own.work or 1))
            found = search.run()
            if not found:
                return SolveResult(None, _termination(search, watch, "nothing that was found serves the model"))
            within = _within_limits(found, options.job.limits)
            watch.say("goodput", "choosing who goes first")
            chosen = choose_order(evaluator, pool, within, options.seed + VALIDATION, watch.stop.is_set)
        detail = f"{_detail(chosen, evaluator)}; {len(search.tried):,} placements simulated"
        placement = evaluator.judge.placement(*arrays(chosen.ranges))
        rules = chosen.rules if evaluator.config.free_rules else None
        config = evaluator.config
        generated = Generated(chosen.score, config.load, config.own.node_timing)
        return SolveResult(placement, _termination(search, watch, detail), chosen.spread, rules, generated)


def _termination(search: GoodputSearch, watch: Watch, detail: str) -> Termination:
    ending: Ending = "interrupt" if watch.stop.is_set() else "time" if search.cut_off else "finished"
    return Termination.of(ending, detail=detail)


def _within_limits(found: Sequence[Scored], limits: Limits) -> Scored:
    """The first that keeps the limits on latency.

    Raises:
        Infeasible: when none does; tells how near the nearest comes.
    """
    for one in found:
        if excess(one, limits) <= 0:
            return one
    nearest = min(found, key=lambda one: excess(one, limits))
    raise Infeasible(
        "no placement that was found keeps the limits on latency",
        where="limits",
        found=_latencies(nearest),
        hint="a lower workload.rate, looser limits, or more time",
    )


def _detail(chosen: Scored, evaluator: Evaluator) -> str:
    load = "held-out requests of the job's lengths"
    words = f"{chosen.score:,.1f} generated tokens/s when saturated, in simulation on {load}"
    latencies = _latencies(chosen)
    return f"{words}; {latencies} at {evaluator.config.job.workload.rate:g} requests/s" if latencies else words


def _latencies(one: Scored) -> str:
    if one.ttft_p95_s is None or one.itl_p95_s is None:
        return ""
    return f"95 % of first tokens within {one.ttft_p95_s:.3g} s, of others within {one.itl_p95_s:.3g} s"
