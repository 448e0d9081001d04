"""``helix-df apply``: run a plan."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from helix_df.marks import mark

if TYPE_CHECKING:
    from rich.console import Console

    from helix_df.plan.moves import Near
    from helix_df.plan.plan import Plan
    from helix_df.runtime.jobs.ahead import Ahead
    from helix_df.runtime.jobs.directory import DaemonRecord
    from helix_df.runtime.requests import JobStatus
    from helix_df.spec.job import Job


def apply(
    source: Annotated[Path, typer.Argument(metavar="JOB_OR_PLAN", help="A job file, or a plan (.json).")],
    plan_file: Annotated[
        Path | None, typer.Option("--plan", metavar="PLAN", help="Run this plan of the job instead of making one.")
    ] = None,
    solver: Annotated[
        str | None, typer.Option(metavar="SOLVER", help="Plan with this solver instead of the job's.")
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Run under this name instead of the job's.")] = None,
    wait: Annotated[bool, typer.Option(help="Stay until the job is ready.")] = True,
    timeout: Annotated[
        float | None, typer.Option(min=1, help="Seconds for every worker to be up, instead of runtime.start_timeout.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Run a plan although the model here is another than it was made for.")
    ] = False,
    foreground: Annotated[
        bool,
        typer.Option(
            "--foreground", help="Stay until the job ends, as a service manager expects; what happens goes to its log."
        ),
    ] = False,
) -> None:
    """Plan a job, if it isn't a plan yet, and run exactly that plan until `helix-df down`.

    A job that runs already with another plan is changed while it serves: the new plan is made near the old one, what
    changes is shown, and requests go its way as soon as its workers are ready.

    Ctrl-C before a new job is ready takes everything down again.
    """
    from helix_df.runtime.jobs.ahead import Ahead

    ahead = None if foreground else Ahead()  # before anything else: it imports beside what is imported here
    try:
        _apply(source, plan_file, solver, name, wait, timeout, force, ahead)
    finally:
        if ahead is not None:
            ahead.drop()


def _apply(
    source: Path,
    plan_file: Path | None,
    solver: str | None,
    name: str | None,
    wait: bool,
    timeout: float | None,
    force: bool,
    ahead: Ahead | None,
) -> None:
    """Run a job beside processes that begin ``ahead`` of it; in this one if None."""
    from helix_df.cli.console import messages, output
    from helix_df.cli.startup import doing

    notes: list[str] = []
    with doing(f"reading {source}", messages()):
        # Imported first: a search must not end in what serving lacks here.
        from helix_df.deployment import asked_plan, is_same, running_plan
        from helix_df.plans import job_and_plan

        job, plan = job_and_plan(source, plan_file, solver=solver, name=name, force=force, on_note=notes.append)
        running, asked = running_plan(job.name), asked_plan(job.name)
    mark("job read")
    for note in notes:
        messages().print(f"warning: {note}", soft_wrap=True)
    if running is not None and asked is not None:
        if is_same(asked, job, plan):
            _say_running(job.name, output())
        else:
            _change(running, job, plan, wait, messages(), output())
        return
    if plan is None:
        plan = _make_plan(job, messages(), output())
    mark("plan made")
    if ahead is None:
        _run_here(plan, timeout)
    record = _start(plan, wait, timeout, force, ahead, messages())
    mark("job ready")
    if wait:
        _warn(plan.job.name, messages())
    _say_what_now(plan, record, output())


def _run_here(plan: Plan, timeout: float | None) -> NoReturn:
    from helix_df.runtime.jobs.directory import job_directory
    from helix_df.runtime.jobs.lifecycle import run_here
    from helix_df.runtime.jobs.own_devices import require_devices

    run_here(job_directory(plan.job.name), require_devices(plan), start_timeout_s=timeout)


def _say_running(name: str, console: Console) -> None:
    from helix_df.runtime.jobs.directory import job_directory

    record = job_directory(name).record()
    at = f" at {record.url}" if record is not None and record.url else ""
    console.print(f"job {name} is already running with this plan{at}", soft_wrap=True)


def change_running(job: Job, wait: bool, progress: Console, console: Console) -> None:
    """Let a plan of a job take over in the one of its name, which runs, and show what that changes."""
    from helix_df.check import check_launching
    from helix_df.deployment import running_plan
    from helix_df.errors import DeploymentError

    running = running_plan(job.name)
    if running is None:
        raise DeploymentError(f"job {job.name} is not running", hint="`helix-df apply` starts it again")
    check_launching(job)
    _change(running, job, None, wait, progress, console)


def _change(running: Plan, job: Job, plan: Plan | None, wait: bool, progress: Console, console: Console) -> None:
    """Let another plan take over in a job that runs."""
    from helix_df import deployment
    from helix_df.cli.diff_table import render_diff
    from helix_df.cli.words import count
    from helix_df.pictures.layout import size
    from helix_df.plan.diff import diff
    from helix_df.plan.takeover import require_changeable, takeover_of_plans

    require_changeable(running.job, job)
    if plan is None:
        plan = _make_plan(job, progress, console, near=deployment.near_to(running, job))
    render_diff(diff(running, plan), console)
    change = takeover_of_plans(running, plan)
    if change.coming:
        who, loads = count(change.coming, "worker"), size(change.load_bytes)
        console.print(f"\nbeside those that serve, {who} will be started and load {loads} in all", soft_wrap=True)
    said: list[str] = []

    def show(status: JobStatus) -> None:
        if status.change and status.change not in said:
            said.append(status.change)
            progress.print(status.change, soft_wrap=True)
        for node in status.nodes:
            if node.join_command is not None and node.state == "waiting" and node.name not in said:
                said.append(node.name)
                progress.print(
                    f"{node.name} waits for this command on its host:\n  {node.join_command}", soft_wrap=True
                )

    deployment.change(plan, wait=wait, on_status=show)
    console.print(f"\njob {job.name} {'serves' if wait else 'will serve'} by the new plan", soft_wrap=True)


def _make_plan(job: Job, progress: Console, console: Console, near: Near | None = None) -> Plan:
    from helix_df.cli.startup import doing

    with doing("reading what the plan is made of", progress):
        from helix_df.cli.plan_table import render_plan
        from helix_df.cli.search import watched
        from helix_df.graph.compile import compile_problem
        from helix_df.planning import make_plan

        problem = compile_problem(job)
    plan = watched(lambda watch: make_plan(job, watch=watch, problem=problem, near=near), progress)
    render_plan(plan, problem, console)
    console.print()
    return plan


def _start(plan: Plan, wait: bool, timeout: float | None, force: bool, ahead: Ahead, console: Console) -> DaemonRecord:
    from helix_df import deployment
    from helix_df.cli.startup import display
    from helix_df.cli.words import plural

    def show_joins(record: DaemonRecord) -> None:
        from helix_df.cli.status import MOST_TOLD

        for node, command in islice(record.join_commands.items(), MOST_TOLD):
            console.print(f"{node} waits for this command on its host:\n  {command}", soft_wrap=True)
        if len(record.join_commands) > MOST_TOLD:
            rest = len(record.join_commands) - MOST_TOLD
            told = f"`helix-df status {plan.job.name} --json` has their commands"
            console.print(f"and {plural(rest, 'more worker')}: {told}", soft_wrap=True)

    with display(console) as show:
        return deployment.apply(
            plan,
            wait=wait,
            timeout_s=timeout,
            force=force,
            on_note=lambda note: None,  # told when the plan was read
            on_serving=show_joins,
            on_status=show,
            on_down=lambda: console.print(f"job {plan.job.name} is down again"),
            ahead=ahead,
        )


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
    key = " -H 'Authorization: Bearer KEY'" if plan.job.runtime.api_keys else ""
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    console.print(
        f"job {name} is {state} at {record.url}\n\n"
        f"  curl {record.url}/v1/chat/completions -H 'Content-Type: application/json'{key} -d '{body}'\n\n"
        f'  helix-df generate {name} --chat "Hello!"\n'
        f"  helix-df status {name}\n"
        f"  helix-df logs {name} --follow\n"
        f"  helix-df down {name}",
        soft_wrap=True,
    )
