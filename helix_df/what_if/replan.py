"""From a plan and a changed job to the plan that answers "what if": made anew, or with every layer where it is.

Owns which of the two is possible and what carries over. Doesn't know changes or simulations.
"""

from __future__ import annotations

from helix_df.errors import Infeasible
from helix_df.graph.compile import compile_problem
from helix_df.graph.even_flow import spread_flow
from helix_df.graph.feasibility import explain_no_flow
from helix_df.graph.limits import broken_limits
from helix_df.plan.diff import stay_near
from helix_df.plan.plan import Plan, SolverReport, assemble
from helix_df.planning import make_plan
from helix_df.solvers.api import Watch
from helix_df.solvers.choice import weighs_moves
from helix_df.solvers.registry import get_solver
from helix_df.spec.job import Job


def replan(plan: Plan, job: Job, watch: Watch | None = None) -> Plan:
    """A plan of the changed job by its own solver.

    Solvers that can begin with a placement begin with the plan's, so that more hardware is never worth less because a
    search ended early; others begin as always.

    Raises:
        Infeasible, SolverError: as ``make_plan``.
    """
    continues = weighs_moves(get_solver(job.solver.name))
    return make_plan(job, watch=watch, near=stay_near(plan, job, 0.0) if continues else None)


def keep_placement(plan: Plan, job: Job) -> Plan:
    """The plan's own placement under the changed job: the flow is computed anew, no layer moves, and the
    rules that it chose stay.

    New nodes stay idle. What was on a node that is gone is gone.

    Raises:
        Infeasible: when the layers that are left don't serve the model, or a limit is broken.
    """
    problem = compile_problem(job)
    placement = {name: layers for name, layers in plan.placement.items() if name in job.nodes}
    broken = broken_limits(problem, placement)
    if broken:
        raise Infeasible(
            "the kept placement breaks the job's limits", where="--keep-placement", found="; ".join(broken[:3])
        )
    flow = spread_flow(problem, placement)
    if flow.value <= 0:
        why = explain_no_flow(problem, placement)
        raise Infeasible(
            f"the kept placement serves nothing: {why.problem}", where="--keep-placement", hint="plan anew"
        )
    report = SolverReport(plan.solver.name, plan.solver.backend, "kept", "the placement was kept", None, 0.0)
    return assemble(job, problem, placement, flow, report, plan.rules)
