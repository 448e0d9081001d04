"""Plans by what people name: a plan file, a job file, or a job that runs or ran on this machine.

Owns what such a name means, to look at a plan and to run one. Doesn't know how plans are made, nor how they run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from helix_df.check import check_launching
from helix_df.errors import PlanError
from helix_df.extras import explained_imports
from helix_df.load import load_job
from helix_df.plan.plan import Plan, read_plan
from helix_df.plan.same_model import OnNote, require_same_model, warn
from helix_df.plan.violations import require_valid
from helix_df.runtime.jobs.directory import list_jobs
from helix_df.spec.job import Job

MakePlan = Callable[[Job], Plan]


def plan_job(job: Job) -> Plan:
    """``make_plan``, imported once something is to be planned: who only runs plans needs no solver.

    Raises:
        HelixError: as ``make_plan``; ``MissingExtra`` where the planning packages aren't installed.
    """
    with explained_imports():
        from helix_df.planning import make_plan

    return make_plan(job)


def find_plan(source: str | Path, make: MakePlan = plan_job) -> Plan:
    """The plan that ``source`` names, checked.

    Args:
        source: a plan file (``.json``), a job file, or the name of a job that runs or ran here.
        make: plans a job file, by default with the solver that it names.

    Raises:
        PlanError: when there is no such plan, or it doesn't fit its job.
        SpecError, Infeasible, SolverError: as ``load_job`` and ``make_plan``.
    """
    path = Path(source)
    if path.suffix == ".json":
        return require_valid(read_plan(path), str(path))
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return make(load_job(path))
    return _plan_of_job(str(source))


def _plan_of_job(name: str) -> Plan:
    jobs = {job.name: job for job in list_jobs()}
    if name not in jobs:
        others = f", or one of the jobs {', '.join(jobs)}" if jobs else ", or a job that runs here"
        raise PlanError(
            f"there is no plan or job called {name!r}", expected=f"a plan file (.json), a job file (.yaml){others}"
        )
    path = jobs[name].plan_path
    return require_valid(read_plan(path), str(path))


def plan_to_run(path: Path, *, force: bool = False, on_note: OnNote = warn) -> Plan:
    """The plan in a file, checked to be right and of the model that is here.

    Args:
        path: of the plan file.
        force: another model than the plan was made for will do.
        on_note: called where the plan can't say which model it was made for, or ``force`` lets another pass.

    Raises:
        PlanError: when it can't be read, isn't right, or is of another model.
    """
    return require_valid(require_same_model(read_plan(path), str(path), force=force, on_note=on_note), str(path))


def job_and_plan(
    source: Path,
    plan_file: Path | None = None,
    *,
    solver: str | None = None,
    name: str | None = None,
    force: bool = False,
    on_note: OnNote = warn,
) -> tuple[Job, Plan | None]:
    """What is to run: a job, and its plan where there is one already.

    Args:
        source: a job file, or a plan file (``.json``).
        plan_file: a plan of that very job.
        solver: the one to plan the job with, instead of its own.
        name: to run under, instead of the job's.
        force: as for ``plan_to_run``.
        on_note: as for ``plan_to_run``.

    Raises:
        PlanError: as ``plan_to_run``, for a plan of another job, and where both are plans.
        SpecError: as ``load_job`` and ``check_launching``, and for what can't be a name.
    """
    if source.suffix == ".json":
        if plan_file is not None or solver is not None:
            raise PlanError("a plan is run as it is", where=str(source), hint="leave --plan and --solver away")
        return _named(plan_to_run(source, force=force, on_note=on_note), name)
    job = load_job(source)
    check_launching(job)
    if solver is not None and solver != job.solver.name:
        job = job.with_solver(name=solver, backend=None, options={})
    if plan_file is None:
        return job.with_name(name) if name is not None else job, None
    plan = plan_to_run(plan_file, force=force, on_note=on_note)
    if plan.job.model_copy(update={"solver": job.solver}) != job:
        raise PlanError(
            "the plan was made for another job, or for this one as it was before",
            where=str(plan_file),
            hint=f"`helix-df plan {source}` makes it again",
        )
    return _named(plan, name)


def _named(plan: Plan, name: str | None) -> tuple[Job, Plan]:
    plan = replace(plan, job=plan.job.with_name(name)) if name is not None else plan
    return plan.job, plan
