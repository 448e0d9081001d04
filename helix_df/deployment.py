"""Run a job from Python, or talk to one that runs.

    job = helix_df.load_job("job.yaml")
    async with helix_df.deploy(helix_df.make_plan(job)) as running:
        async for piece in running.stream("The capital of France is", max_tokens=8):
            sys.stdout.write(piece.text)
        answer = await running.chat("Who are you?", max_tokens=32)

What ``deploy`` started is gone when its block ends; what ``apply`` started lasts until ``down``.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from helix_df.errors import DeploymentError
from helix_df.extras import explained_imports
from helix_df.load import load_job, parse_part
from helix_df.measuring.differences import Difference
from helix_df.plan.diff import stay_near
from helix_df.plan.moves import Near
from helix_df.plan.plan import Plan, read_plan, to_document
from helix_df.plan.same_model import OnNote, require_same_model, warn
from helix_df.plan.violations import require_valid
from helix_df.plans import plan_job, plan_to_run
from helix_df.runtime.api.answer_reading import formats_of
from helix_df.runtime.api.client import LocalJob, RunningJob, fetch_status, tell
from helix_df.runtime.api.generation import TextService
from helix_df.runtime.jobs.ahead import Ahead
from helix_df.runtime.jobs.connecting import connect
from helix_df.runtime.jobs.directory import DaemonRecord, JobDirectory, find_job, find_running, job_directory
from helix_df.runtime.jobs.lifecycle import start_daemon, stop_daemon, until_ended, until_ready, until_serving
from helix_df.runtime.jobs.own_devices import require_devices
from helix_df.runtime.requests import GIVEN_UP, JobStatus
from helix_df.spec.includes import read_text
from helix_df.spec.job import Job

__all__ = [
    "apply",
    "change",
    "connect",
    "deploy",
    "differences",
    "down",
    "drain",
    "is_same",
    "near_to",
    "plan_of",
    "running_plan",
    "status",
    "with_nodes",
    "without_nodes",
]

MOVE_PRICE = 1.0
"""Tokens/s that each GiB of weights to load must gain, for a plan that takes over."""

_LOOK_S = 0.2


@asynccontextmanager
async def deploy(
    what: Plan | Job | str | Path, *, embedded: bool = True, timeout_s: float | None = None, force: bool = False
) -> AsyncIterator[RunningJob]:
    """Run a plan (or plan a job, or either's file, and run that) for as long as the block lasts.

    Args:
        what: a plan, a job, or the path of a job file or of a plan file (``.json``).
        embedded: every worker is a thread of this process, without any socket; otherwise as the job says.
        timeout_s: for every worker to be up; ``runtime.start_timeout`` of the job by default.
        force: run a plan although the model here is another than it was made for.

    Raises:
        HelixError: when it can't be planned, the plan isn't right or for another model, or the workers don't start.
    """
    with explained_imports():
        from helix_df.models.tokenizer import load_tokenizer
        from helix_df.runtime.coordinator.shell import context_of
        from helix_df.runtime.jobs.coordinators import new_coordinator

    plan = require_devices(await asyncio.to_thread(plan_of, what, force=force))
    model = plan.job.model
    tokenizer = await asyncio.to_thread(load_tokenizer, model.parsed_source)
    with tempfile.TemporaryDirectory(prefix="helix-df-", ignore_cleanup_errors=True) as logs:
        coordinator = new_coordinator(plan, log_dir=Path(logs), embedded=embedded)
        text = TextService(
            coordinator,
            tokenizer,
            model_name=model.served_name,
            context=context_of(plan),
            formats=formats_of(tokenizer.chat.source, model.tool_parser, model.reasoning_parser),
        )
        try:
            await coordinator.start()
            await coordinator.wait_ready(plan.job.runtime.start_timeout if timeout_s is None else timeout_s)
            yield LocalJob(text)
        finally:
            await coordinator.close()


def apply(
    what: Plan | Job | str | Path,
    *,
    wait: bool = True,
    timeout_s: float | None = None,
    force: bool = False,
    on_note: OnNote = warn,
    on_serving: Callable[[DaemonRecord], None] = lambda record: None,
    on_status: Callable[[JobStatus], None] | None = None,
    on_down: Callable[[], None] = lambda: None,
    ahead: Ahead | None = None,
) -> DaemonRecord:
    """Run a plan (or a job, or either's file) as a daemon that outlives this process, until ``down``.

    Args:
        what: as for ``deploy``.
        wait: return when every worker is up, not as soon as the API is.
        timeout_s: for every worker to be up; ``runtime.start_timeout`` of the job by default.
        force: run a plan although the model here is another than it was made for.
        on_note: called where the plan can't say which model it was made for, or ``force`` lets another pass.
        on_serving: called once the API is up, with the commands of workers that people start.
        on_status: called a few times a second until the job is ready.
        on_down: called when it was started, and is down again.
        ahead: processes that wait to become the daemon; by default it is started now.

    Raises:
        HelixError: when it doesn't start; nothing is left running then, nor when this is interrupted.
    """
    plan = require_devices(plan_of(what, force=force, on_note=on_note))
    directory = job_directory(plan.job.name)
    process = start_daemon(directory, plan, start_timeout_s=timeout_s, ahead=ahead)
    try:
        record = until_serving(directory, process)
        on_serving(record)
        return until_ready(directory, process, on_status) if wait else record
    except BaseException:
        stop_daemon(directory)
        process.wait()
        on_down()
        raise


def running_plan(name: str) -> Plan | None:
    """The plan that runs here under a job's name, or that is about to take over there; ``None`` if nothing runs.

    Raises:
        DeploymentError: when somebody is starting it at this very moment.
    """
    directory = job_directory(name)
    if not directory.is_running():
        return None
    if not directory.plan_path.exists():
        raise DeploymentError(f"job {name} is only starting", hint="try again in a moment")
    return read_plan(directory.plan_path)


def asked_plan(name: str) -> Plan | None:
    """The plan that was asked for under a job's name and that runs here; where it lost nodes for long, another one does
    (``running_plan``) until they are back, and where its nodes come and go, one of another size."""
    directory = job_directory(name)
    if directory.is_running() and directory.asked_plan_path.is_file():
        return read_plan(directory.asked_plan_path)
    identity = directory.identity()
    replanned = identity is not None and identity.spares and directory.wanted_plan_path.is_file()
    return read_plan(directory.wanted_plan_path) if replanned and directory.is_running() else running_plan(name)


def is_same(running: Plan, job: Job, plan: Plan | None = None) -> bool:
    """Whether a plan that runs is this one; any plan of this very job, if none is given."""
    if plan is None:
        return running.job == job
    return (running.job, running.placement, running.rules) == (job, plan.placement, plan.rules)


def change(
    what: Plan | Job | str | Path,
    *,
    wait: bool = True,
    force: bool = False,
    move_price: float = MOVE_PRICE,
    on_status: Callable[[JobStatus], None] = lambda status: None,
) -> None:
    """Let another plan take over in the job of its name, which runs; nothing that was asked is lost or waits.

    Workers of nodes whose layers or batches change are started beside those that serve. Requests that run end where
    they are, and new ones go the new way once all its workers are ready.

    Args:
        what: as for ``deploy``; a job is planned near the plan that runs.
        wait: return when the plan has taken over, not as soon as it is on its way.
        force: as for ``apply``.
        move_price: tokens/s that each GiB of weights to load must gain, where a job is planned by a solver that weighs
            moves.
        on_status: called a few times a second until then.

    Raises:
        HelixError: when it isn't running, can't be planned or changed, or a new worker failed; it serves on as before.
    """
    plan = require_devices(_plan_near(what, move_price) if isinstance(what, Job) else plan_of(what, force=force))
    running, access = find_running(plan.job.name)
    tell(access, secret_of(running), "plan", {"plan": to_document(plan)})
    while wait:
        found = status(plan.job.name)
        on_status(found)
        if not found.change:
            return
        if found.change.startswith(GIVEN_UP):
            raise DeploymentError(found.change, hint=f"job {plan.job.name} serves on by the plan that it had")
        time.sleep(_LOOK_S)


def near_to(running: Plan, job: Job, move_price: float = MOVE_PRICE) -> Near | None:
    """What keeps a new plan of a job near the one that runs; ``None`` if the job's solver doesn't weigh moves."""
    from helix_df.solvers.choice import weighs_moves
    from helix_df.solvers.registry import get_solver

    return stay_near(running, job, move_price) if weighs_moves(get_solver(job.solver.name)) else None


def _plan_near(job: Job, move_price: float) -> Plan:
    from helix_df.planning import make_plan  # who only runs plans has no solver

    running = running_plan(job.name)
    return plan_job(job) if running is None else make_plan(job, near=near_to(running, job, move_price))


def with_nodes(part: str | Path, name: str | None = None) -> Job:
    """The job that runs under a name, by default the only one, with the nodes, GPU types and links that a file declares
    as a job file does; ``change`` lets a plan of it take over.

    Raises:
        SpecError: as ``load.parse_part``.
        DeploymentError: when there is no such job.
    """
    path = Path(part)
    return parse_part(_asked_job(name), read_text(path, str(path), "a part of a job"), str(path), path.parent)


def without_nodes(nodes: Collection[str], name: str | None = None) -> Job:
    """The job that runs under a name, by default the only one, without some of its nodes; ``change`` lets a plan of it
    take over, by which their workers end once nothing runs there any more.

    Raises:
        SpecError: for a node that isn't there, or when none would be left.
        DeploymentError: when there is no such job.
    """
    from helix_df.what_if.changes import RemoveNode, changed  # who only runs plans has no solver

    return changed(_asked_job(name), [RemoveNode(node) for node in nodes])


def _asked_job(name: str | None) -> Job:
    job, _ = find_running(name)
    asked = asked_plan(job.name)
    if asked is None:
        raise DeploymentError(f"job {job.name} is not running", hint="`helix-df apply` starts it again")
    return asked.job


def drain(
    node: str,
    name: str | None = None,
    *,
    undo: bool = False,
    wait: bool = True,
    on_status: Callable[[JobStatus], None] = lambda status: None,
) -> None:
    """Send no new requests to a node of a running job; what runs there goes on.

    Args:
        node: its name in the job, or that of its worker, as ``status`` shows it.
        name: of the job; by default, the only one.
        undo: send it requests again.
        wait: return once nothing runs there any more.
        on_status: called a few times a second until then.

    Raises:
        DeploymentError: when there is no such job or node, or nothing would be left that serves.
    """
    running, access = find_running(name)
    tell(access, secret_of(running), "drain", {"node": node, "undo": undo})
    while wait and not undo:
        status = fetch_status(access)
        on_status(status)
        if not any(
            one.running for one in status.nodes if one.drained and node in (one.name, one.name.rpartition(".")[0])
        ):
            return
        time.sleep(_LOOK_S)


def status(name: str | None = None) -> JobStatus:
    """How a running job does; by default, the only one. External nodes carry the command that joins them.

    Raises:
        DeploymentError: when there is no such job.
    """
    job, access = find_running(name)
    record = job.record()
    joins = record.join_commands if record is not None else {}
    found = fetch_status(access)
    return replace(found, nodes=tuple(replace(node, join_command=joins.get(node.name)) for node in found.nodes))


def differences(name: str | None = None) -> tuple[Difference, ...]:
    """Where the workers of a running job timed something else at their start than its plan was made with.

    Raises:
        DeploymentError: when there is no such job.
    """
    from helix_df.measuring.drift import status_differences

    return status_differences(read_plan(find_job(name).plan_path), status(name))


def down(name: str | None = None, *, grace_s: float = 0.0) -> bool:
    """End a job and its workers; by default, the only one. Returns whether it was running.

    New requests are refused at once; those that there are get ``grace_s`` seconds to end.

    Raises:
        DeploymentError: when there is no such job, or a process of it can't be ended.
    """
    job = find_job(name)
    if grace_s > 0 and job.is_running():
        tell(find_running(job.name)[1], secret_of(job), "stop", {"grace_s": float(grace_s)})
        until_ended(job, grace_s)
        return stop_daemon(job) or True
    return stop_daemon(job)


def secret_of(job: JobDirectory) -> str:
    """What proves to a running job that whoever asks may change it; only its user can read it.

    Raises:
        DeploymentError: when the job doesn't say it.
    """
    record = job.record()
    if record is None or record.token is None:
        raise DeploymentError(f"job {job.name} is only starting", hint="try again in a moment")
    return record.token


def plan_of(what: Plan | Job | str | Path, *, force: bool = False, on_note: OnNote = warn) -> Plan:
    """The checked plan of a plan, a job or either's file; ``force`` and ``on_note`` as for ``apply``.

    Raises:
        HelixError: when it can't be read or planned, isn't right, or was made for another model.
    """
    if isinstance(what, Plan):
        return require_valid(require_same_model(what, force=force, on_note=on_note))
    if isinstance(what, Job):
        return plan_job(what)
    path = Path(what)
    return plan_to_run(path, force=force, on_note=on_note) if path.suffix == ".json" else plan_job(load_job(path))
