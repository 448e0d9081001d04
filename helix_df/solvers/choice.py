"""Whether a job's solver can do what the job asks of it.

Owns that check, before anything is solved. What a solver can do it says itself (``Solver``).
"""

from __future__ import annotations

from helix_df.errors import SolverError
from helix_df.plan.moves import Near
from helix_df.solvers.api import Solver
from helix_df.solvers.options import read_extra
from helix_df.solvers.registry import BUILT_IN, get_solver
from helix_df.spec.job import Job


def choose_solver(job: Job, near: Near | None = None) -> Solver:
    """The solver that a job names.

    Args:
        job: whose solver, options and limits are checked.
        near: what runs and should move little, if something does.

    Raises:
        SolverError: for an unknown solver or option, for limits on latency that it doesn't keep, and where it doesn't
            weigh moves but should.
    """
    solver = get_solver(job.solver.name)
    own = getattr(solver, "own_options", None)
    if own is not None:
        read_extra(job.solver.name, job.solver.options, own)
    for name in ("ttft_p95", "itl_p95"):
        if getattr(job.limits, name) is not None and not keeps_latency(solver):
            raise SolverError(
                f"the solver {job.solver.name} keeps no limits on latency",
                where=f"limits.{name}",
                hint=f"the solver {_who('keeps_latency')}",
            )
    if near is not None and not weighs_moves(solver):
        raise SolverError(
            f"{job.solver.name} doesn't weigh moves against flow",
            where="solver.name",
            hint=f"the solver {_who('weighs_moves')}",
        )
    return solver


def keeps_latency(solver: Solver) -> bool:
    """Whether the solver keeps ``limits.ttft_p95`` and ``limits.itl_p95`` at ``workload.rate``."""
    return bool(getattr(solver, "keeps_latency", False))


def weighs_moves(solver: Solver) -> bool:
    """Whether the solver weighs what it gains against the weights that nodes have to load."""
    return bool(getattr(solver, "weighs_moves", False))


def _who(ability: str) -> str:
    return " or ".join(name for name in BUILT_IN if getattr(get_solver(name), ability, False))
