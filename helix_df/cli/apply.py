"""``helix-df apply``: run a plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from helix_df.plan.plan import Plan
    from helix_df.runtime.jobs.directory import DaemonRecord, JobDirectory
    from helix_df.spec.job import Job


def apply(
    source: Annotated[Path, typer.Argument(metavar="JOB_OR_PLAN", help="A job file, or a plan (.json).")],
    plan_file: Annotated[
        Path | None, typer.Option("--plan", help="Run this plan of the job instead of making one.")
    ] = None,
    solver: Annotated[str | None, typer.Option(help="Place with this solver instead of the job's.")] = None,
    name: Annotated[str | None, typer.Option(help="Run under this name instead of the job's.")] = None,
    wait: Annotated[bool, typer.Option(help="Stay until the job is ready.")] = True,
    timeout: Annotated[
        float | None, typer.Option(min=1, help="Seconds for every worker to be up, instead of runtime.start_timeout.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Run a plan although the model here is another than it was made for.")
    ] = False,
) -> None:
    """Plan a job, if it isn't a plan yet, and run exactly that plan until `helix-df down`.

    Ctrl-C before it is ready takes everything down again.
    """
    import helix_df.deployment  # noqa: F401 - a search must not end in what serving lacks here
    from helix_df.cli.console import messages, output
    from helix_df.runtime.jobs.directory import job_directory

    job, plan = _read(source, plan_file, solver, name, force)
    directory = job_directory(job.name)
    if directory.is_running():
        _already_running(directory, job, plan, output())
        return
    if plan is None:
        plan = _make_plan(job, messages(), output())
    record = _start(directory, plan, wait, timeout, force, messages())
    if wait:
        _warn(plan.job.name, messages())
    _say_what_now(plan, record, output())


def _read(
    source: Path, plan_file: Path | None, solver: str | None, name: str | None, force: bool
) -> tuple[Job, Plan | None]:
    from helix_df.errors import PlanError
    from helix_df.load import load_job

    if source.suffix == ".json":
        if plan_file is not None or solver is not None:
            raise PlanError("a plan is run as it is", where=str(source), hint="leave --plan and --solver away")
        plan = _checked(source, force)
        plan = replace(plan, job=_renamed(plan.job, name))
        return plan.job, plan
    job = load_job(source)
    if solver is not None and solver != job.solver.name:
        job = job.with_solver(name=solver, backend=None, options={})
    if plan_file is None:
        return _renamed(job, name), None
    plan = _checked(plan_file, force)
    if plan.job.model_copy(update={"solver": job.solver}) != job:
        raise PlanError(
            "the plan was made for another job, or for this one as it was before",
            where=str(plan_file),
            hint=f"`helix-df plan {source}` makes it again",
        )
    plan = replace(plan, job=_renamed(plan.job, name))
    return plan.job, plan


def _checked(path: Path, force: bool) -> Plan:
    from helix_df.cli.console import messages
    from helix_df.plan.plan import read_plan
    from helix_df.plan.same_model import require_same_model
    from helix_df.plan.violations import require_valid

    def note(text: str) -> None:
        messages().print(f"warning: {text}", soft_wrap=True)

    return require_valid(require_same_model(read_plan(path), str(path), force=force, on_note=note), str(path))


def _renamed(job: Job, name: str | None) -> Job:
    from pydantic import TypeAdapter, ValidationError

    from helix_df.errors import SpecError
    from helix_df.spec.job import Name

    if name is None:
        return job
    try:
        return job.model_copy(update={"name": TypeAdapter(Name).validate_python(name)})
    except ValidationError as error:
        raise SpecError(
            "this can't be a job's name",
            where="--name",
            found=repr(name),
            expected="letters, digits, dots, dashes and underscores, a letter or digit first, 63 at most",
        ) from error


def _already_running(directory: JobDirectory, job: Job, plan: Plan | None, console: Console) -> None:
    from helix_df.errors import DeploymentError
    from helix_df.plan.plan import read_plan

    running = read_plan(directory.plan_path)
    same = running.job == job and (plan is None or running.placement == plan.placement)
    record = directory.record()
    if not same:
        raise DeploymentError(
            f"job {job.name} is running with another plan",
            where=record.url if record is not None else None,
            hint=f"`helix-df down {job.name}` stops it; `--name` runs this one beside it",
        )
    at = f" at {record.url}" if record is not None and record.url else ""
    console.print(f"job {job.name} is already running with this plan{at}", soft_wrap=True)


def _make_plan(job: Job, progress: Console, console: Console) -> Plan:
    from helix_df.cli.plan_table import render_plan
    from helix_df.cli.search import watched
    from helix_df.graph.compile import compile_problem
    from helix_df.planning import make_plan

    problem = compile_problem(job)
    plan = watched(lambda watch: make_plan(job, watch=watch, problem=problem), progress)
    render_plan(plan, problem, console)
    console.print()
    return plan


def _start(
    directory: JobDirectory, plan: Plan, wait: bool, timeout: float | None, force: bool, console: Console
) -> DaemonRecord:
    from helix_df import deployment
    from helix_df.cli.startup import display

    def show_joins(record: DaemonRecord) -> None:
        for node, command in record.join_commands.items():
            console.print(f"{node} waits for this command on its host:\n  {command}", soft_wrap=True)

    try:
        with display(console) as show:
            return deployment.apply(
                plan,
                wait=wait,
                timeout_s=timeout,
                force=force,
                on_note=lambda note: None,  # told when the plan was read
                on_serving=show_joins,
                on_status=show,
            )
    except BaseException:
        console.print(f"job {directory.name} is down again")
        raise


def _warn(name: str, console: Console) -> None:
    """Say in one line where workers are slower than planned, so that the plan promises too much; no reason to fail.

    A faster worker keeps what the plan promises, as one does that was granted less than its device can do.
    """
    from helix_df import deployment
    from helix_df.errors import HelixError

    try:
        slower = [difference for difference in deployment.differences(name) if difference.worse]
    except HelixError:
        return
    if slower:
        worst = max(slower, key=lambda difference: difference.factor)
        others = f", and {len(slower) - 1} more slower than planned" if len(slower) > 1 else ""
        console.print(
            f"warning: {worst}{others}; `helix-df profile` measures what a device does, as YAML for the job's gpus",
            soft_wrap=True,
        )


def _say_what_now(plan: Plan, record: DaemonRecord, console: Console) -> None:
    name, model = plan.job.name, plan.job.model.served_name
    state = "ready" if record.state == "ready" else "starting"
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    console.print(
        f"job {name} is {state} at {record.url}\n\n"
        f"  curl {record.url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'\n\n"
        f'  helix-df generate {name} --chat "Hello!"\n'
        f"  helix-df status {name}\n"
        f"  helix-df logs {name} --follow\n"
        f"  helix-df down {name}",
        soft_wrap=True,
    )
