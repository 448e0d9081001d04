"""From a job to a plan, by the objective that the job names.

Owns the choice between the objectives. Doesn't know how either is planned for.
"""

from __future__ import annotations

from helix_df.errors import SolverError
from helix_df.graph.problem import Problem
from helix_df.plan.moves import Near
from helix_df.plan.plan import Plan
from helix_df.solvers.api import Watch
from helix_df.solvers.planner import plan_flow
from helix_df.spec.job import Job


def make_plan(
    job: Job, *, watch: Watch | None = None, problem: Problem | None = None, near: Near | None = None
) -> Plan:
    """Plan a job for its objective.

    Args:
        job: what to plan.
        watch: hears of progress and may stop the search, whose best placement then becomes the plan.
        problem: ``compile_problem(job)``, if the caller has it already.
        near: what runs, and the flow that a GiB moved must gain; for solvers that weigh moves (auto, cover).

    Raises:
        Infeasible: when the model can't be served on the nodes, or nothing was found that serves it; says why.
        SolverError: for an unknown solver or option, or a solver that broke its contract.
        ModelError, SpecError: as ``compile_problem``.
    """
    if job.solver.objective == "flow":
        return plan_flow(job, watch=watch, problem=problem, near=near)
    if near is not None:
        raise SolverError(
            "the objective goodput doesn't weigh moves yet", where="solver.objective", hint="objective: flow"
        )
    # The simulator is only loaded by those who plan with it.
    from helix_df.goodput.planner import plan_goodput

    return plan_goodput(job, watch=watch, problem=problem)
