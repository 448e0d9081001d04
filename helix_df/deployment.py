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
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from helix_df.errors import DeploymentError
from helix_df.extras import explained_imports
from helix_df.load import load_job
from helix_df.measuring.differences import Difference
from helix_df.plan.plan import Plan, read_plan
from helix_df.plan.same_model import OnNote, require_same_model, warn
from helix_df.plan.violations import require_valid
from helix_df.plans import plan_job, plan_to_run
from helix_df.profiles.catalogue import device_count
from helix_df.runtime.access import Access
from helix_df.runtime.api.client import LocalJob, RemoteJob, RunningJob, fetch_status, http_client
from helix_df.runtime.api.generation import TextService
from helix_df.runtime.jobs.directory import DaemonRecord, find_job, find_running, job_directory
from helix_df.runtime.jobs.lifecycle import start_daemon, stop_daemon, until_ready, until_serving
from helix_df.runtime.requests import JobStatus
from helix_df.spec.job import Job

__all__ = ["apply", "connect", "deploy", "differences", "down", "plan_of", "runs_already", "status"]


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

    plan = require_single_devices(await asyncio.to_thread(plan_of, what, force=force))
    model = plan.job.model
    tokenizer = await asyncio.to_thread(load_tokenizer, model.parsed_source)
    with tempfile.TemporaryDirectory(prefix="helix-df-", ignore_cleanup_errors=True) as logs:
        coordinator = new_coordinator(plan, log_dir=Path(logs), embedded=embedded)
        text = TextService(coordinator, tokenizer, model_name=model.served_name, context=context_of(plan))
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

    Raises:
        HelixError: when it doesn't start; nothing is left running then, nor when this is interrupted.
    """
    plan = require_single_devices(plan_of(what, force=force, on_note=on_note))
    directory = job_directory(plan.job.name)
    process = start_daemon(directory, plan, start_timeout_s=timeout_s)
    try:
        record = until_serving(directory, process)
        on_serving(record)
        return until_ready(directory, process, on_status) if wait else record
    except BaseException:
        stop_daemon(directory)
        process.wait()
        raise


def runs_already(job: Job, plan: Plan | None = None) -> bool:
    """Whether a job runs here under its name with this plan; with any plan of this very job, if none is given.

    Raises:
        DeploymentError: when something else runs under that name.
    """
    directory = job_directory(job.name)
    if not directory.is_running():
        return False
    running = read_plan(directory.plan_path)
    if running.job == job and (plan is None or running.placement == plan.placement):
        return True
    record = directory.record()
    raise DeploymentError(
        f"job {job.name} is running with another plan",
        where=record.url if record is not None else None,
        hint=f"`helix-df down {job.name}` stops it; `--name` runs this one beside it",
    )


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


def down(name: str | None = None) -> bool:
    """End a job and its workers; by default, the only one. Returns whether it was running.

    Raises:
        DeploymentError: when there is no such job, or a process of it can't be ended.
    """
    return stop_daemon(find_job(name))


@asynccontextmanager
async def connect(name_or_url: str | None = None) -> AsyncIterator[RunningJob]:
    """A job that runs as a daemon, by its name or its API's URL; without either, the only one that runs here.

    To one by its URL, the key in the environment's ``HELIX_DF_API_KEY`` is sent.

    Raises:
        DeploymentError: when there is no such job.
    """
    is_url = name_or_url is not None and "://" in name_or_url
    if is_url and name_or_url is not None:
        access = Access(name_or_url, os.environ.get("HELIX_DF_API_KEY"))
    else:
        access = find_running(name_or_url)[1]
    async with http_client(access) as http:
        yield RemoteJob(http)


def require_single_devices(plan: Plan) -> Plan:
    """``plan`` itself, if each of its workers runs on one device; an emulated job runs on none of those it names.

    Raises:
        DeploymentError: with the nodes of several devices.
    """
    nodes = plan.job.nodes
    several = [stage.node for stage in plan.stages if device_count(nodes[stage.node].gpu) > 1]
    if several and not plan.job.runtime.emulate:
        raise DeploymentError(
            "nodes of several devices can be planned and simulated, but not run yet: a worker computes on one device",
            where=f"job {plan.job.name}",
            found=", ".join(f"{name}: {nodes[name].gpu}" for name in several),
            expected="one device a node",
            hint="declare a node for each device, with links between them as fast as they are",
        )
    return plan


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
