"""Everything about a job that can be checked without solving it.

Owns what `validate` promises. Needs none of the packages that solvers need.
"""

from __future__ import annotations

from contextlib import suppress

from helix_df.errors import MissingExtra
from helix_df.extras import explained_imports, require_tracing
from helix_df.graph.compile import compile_problem
from helix_df.graph.feasibility import explain_infeasible
from helix_df.graph.problem import Problem
from helix_df.models.answer_formats.registry import reasoning_format_of, tool_format_of
from helix_df.runtime.coordinator.drafters.registry import check_speculation
from helix_df.runtime.jobs.launchers.registry import check_launchers
from helix_df.spec.job import Job


def check_job(job: Job) -> Problem:
    """Check what can be checked without solving: solver and launchers with their options, the model, that it fits.

    A solver or launcher that only lacks packages here is let pass; they may be installed where the job is planned.

    Raises:
        Infeasible: when no placement exists; says why.
        MissingExtra: when the job wants traces, and what sends them isn't installed.
        SolverError: as ``choose_solver``.
        ModelError, SpecError: as ``compile_problem``; for a parser, launcher or drafter that nobody knows.
    """
    with job.places.told():
        return _checked(job)


def check_launching(job: Job) -> None:
    """Check that a job's nodes can be started as it says; a launcher that only lacks packages here is let pass.

    Raises:
        SpecError: for a launcher that nobody knows, a wrong option, or what it needs.
    """
    with job.places.told(), suppress(MissingExtra), explained_imports():
        check_launchers(job)


def _checked(job: Job) -> Problem:
    with suppress(MissingExtra), explained_imports():
        from helix_df.solvers.choice import choose_solver

        choose_solver(job)
    check_launching(job)
    check_speculation(job.runtime.speculation)
    if job.runtime.traces is not None:
        require_tracing("runtime.traces")
    tool_format_of("", job.model.tool_parser)
    reasoning_format_of("", job.model.reasoning_parser)
    problem = compile_problem(job)
    impossible = explain_infeasible(problem)
    if impossible is not None:
        raise impossible
    return problem
