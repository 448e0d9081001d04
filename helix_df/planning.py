"""From a job to a plan: the solver that the job names places the layers, an exact maximum flow judges, a plan is made.

Owns the order of these steps. Doesn't know how any solver works, or judges (``solvers.planner``).
"""

from __future__ import annotations

from helix_df.graph.compile import compile_problem
from helix_df.graph.problem import Problem
from helix_df.plan.device_rules import device_rules
from helix_df.plan.goodput import certify
from helix_df.plan.moves import Near
from helix_df.plan.plan import Plan, SolverReport, assemble
from helix_df.solvers.api import SolveOptions, Watch
from helix_df.solvers.choice import choose_solver
from helix_df.solvers.planner import solve_problem
from helix_df.spec.job import Job


def make_plan(
    job: Job, *, watch: Watch | None = None, problem: Problem | None = None, near: Near | None = None
) -> Plan:
    """Plan a job with the solver it names.

    Args:
        job: what to plan.
        watch: hears of progress and may stop the search, whose best placement then becomes the plan.
        problem: ``compile_problem(job)``, if the caller has it already.
        near: what runs, and the tokens/s that a GiB moved must gain; for solvers that weigh moves.

    Raises:
        Infeasible: when the model can't be served on the nodes, or nothing was found that serves it; says why.
        SolverError: for an unknown solver or option, or a solver that broke its contract.
        ModelError, SpecError: as ``compile_problem``.
    """
    with job.places.told():
        return _made(job, watch or Watch(), problem, near)


def _made(job: Job, watch: Watch, problem: Problem | None, near: Near | None) -> Plan:
    choice = job.solver
    solver = choose_solver(job, near)
    problem = problem or compile_problem(job)
    options = SolveOptions(choice.time_limit, choice.seed, choice.gap, choice.backend, choice.options, near, job)
    placement, flow, termination, rules, generated = solve_problem(problem, solver, options, watch)
    goodput = None if generated is None else certify(job, problem, generated)
    report = SolverReport(
        name=choice.name,
        backend=choice.backend,
        # Of layers that differ a solver knows a count alone: what it proves is no bound on what they are.
        reason="finished" if problem.differs and termination.reason == "optimal" else termination.reason,
        detail=termination.detail,
        bound=None if problem.differs else termination.bound,
        seconds=watch.elapsed_s(),
        limit=termination.limit,
    )
    if rules is None and generated is None:
        rules = device_rules(job, problem, placement)
    return assemble(job, problem, placement, flow, report, rules, goodput)
