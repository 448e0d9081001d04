"""From a job to the plan that serves most: search, choose within the limits on latency, assemble.

Owns the choice and the words about it. The plan itself is like any other: its flow is the placement's maximum flow,
with its cut and bound. Doesn't search (``search``).
"""

from __future__ import annotations

from collections.abc import Sequence

from helix_df.errors import Infeasible, SolverError
from helix_df.goodput.brief import Brief, GoodputOptions
from helix_df.goodput.crew import open_crew
from helix_df.goodput.search import GoodputSearch
from helix_df.goodput.workshop import Scored, Workshop, arrays, excess
from helix_df.graph.compile import compile_problem
from helix_df.graph.even_flow import spread_flow
from helix_df.graph.feasibility import explain_infeasible
from helix_df.graph.problem import Problem
from helix_df.plan.plan import Plan, SolverReport, assemble
from helix_df.solvers.api import Watch
from helix_df.solvers.options import read_extra
from helix_df.spec.job import Job, Limits


def plan_goodput(job: Job, *, watch: Watch | None = None, problem: Problem | None = None) -> Plan:
    """Plan a job for the most generated tokens/s in simulation.

    Deterministic for a seed as long as the time limit cuts nothing off.

    Args:
        job: what to plan; ``solver.options`` are those of ``GoodputOptions``.
        watch: hears of better placements, as generated tokens/s, and may end the search.
        problem: ``compile_problem(job)``, if the caller has it already.

    Raises:
        Infeasible: when nothing serves the model, or nothing that was found keeps the limits on latency.
        SolverError: for options that make no sense.
    """
    watch = watch or Watch()
    problem = problem or compile_problem(job)
    own = read_extra("goodput", job.solver.options, GoodputOptions)
    if job.solver.name != "auto" or job.solver.backend is not None:
        raise SolverError(
            "the objective goodput has a search of its own",
            where="solver.name",
            found=repr(job.solver.name),
            expected="auto, without a backend",
        )
    impossible = explain_infeasible(problem)
    if impossible is not None:
        raise impossible
    workshop = Workshop(Brief(job, own), problem, job.solver.seed)
    with open_crew(workshop) as crew:
        found = GoodputSearch(workshop, crew, watch, job.solver.time_limit, job.solver.seed).run()
    if not found:
        raise Infeasible(
            "no placement was found that serves the model",
            where="solver.time_limit",
            hint="more time, or objective: flow",
        )
    chosen = _within_limits(found, job.limits)
    placement = workshop.judge.placement(*arrays(chosen.ranges))
    report = SolverReport(
        name="goodput",
        backend=None,
        reason="interrupted" if watch.stop.is_set() else "finished",
        detail=_detail(chosen, workshop),
        bound=None,
        seconds=watch.elapsed_s(),
    )
    return assemble(job, problem, placement, spread_flow(problem, placement, chosen.spread), report)


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


def _detail(chosen: Scored, workshop: Workshop) -> str:
    words = f"{chosen.score:,.1f} generated tokens/s when saturated, in simulation"
    latencies = _latencies(chosen)
    return f"{words}; {latencies} at {workshop.brief.job.workload.rate:g} requests/s" if latencies else words


def _latencies(one: Scored) -> str:
    if one.ttft_p95_s is None or one.itl_p95_s is None:
        return ""
    return f"95 % of first tokens within {one.ttft_p95_s:.3g} s, of others within {one.itl_p95_s:.3g} s"
