"""Run a job from Python, or talk to one that runs.

    job = helix_df.load_job("job.yaml")
    async with helix_df.deploy(helix_df.make_plan(job)) as running:
        async for piece in running.stream("The capital of France is", max_tokens=8):
            sys.stdout.write(piece.text)
        answer = await running.chat("Who are you?", max_tokens=32)

Owns nothing that lasts: what ``deploy`` started is gone when its block ends.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from helix_df.errors import PlanError
from helix_df.plan import Plan, read_plan
from helix_df.runtime.client import LocalJob, RemoteJob, RunningJob, http_client
from helix_df.runtime.generation import TextService
from helix_df.runtime.jobs import find_running
from helix_df.spec.job import Job
from helix_df.violations import violations

__all__ = ["connect", "deploy", "plan_of", "require_valid"]


@asynccontextmanager
async def deploy(
    what: Plan | Job | str | Path, *, embedded: bool = True, timeout_s: float | None = None
) -> AsyncIterator[RunningJob]:
    """Run a plan (or plan a job, or either's file, and run that) for as long as the block lasts.

    Args:
        what: a plan, a job, or the path of a job file or of a plan file (``.json``).
        embedded: every worker is a thread of this process, without any socket; otherwise as the job says.
        timeout_s: for every worker to be up; ``runtime.start_timeout`` of the job by default.

    Raises:
        HelixError: when it can't be planned, the plan isn't right, or the workers don't start.
    """
    from helix_df.models.tokenizer import load_tokenizer
    from helix_df.runtime.coordinator import Coordinator, context_of

    plan = await asyncio.to_thread(plan_of, what)
    model = plan.job.model
    tokenizer = await asyncio.to_thread(load_tokenizer, model.parsed_source)
    with tempfile.TemporaryDirectory(prefix="helix-df-", ignore_cleanup_errors=True) as logs:
        coordinator = Coordinator(plan, log_dir=Path(logs), embedded=embedded)
        text = TextService(coordinator, tokenizer, model_name=model.served_name, context=context_of(plan))
        try:
            await coordinator.start()
            await coordinator.wait_ready(plan.job.runtime.start_timeout if timeout_s is None else timeout_s)
            yield LocalJob(text)
        finally:
            await coordinator.close()


@asynccontextmanager
async def connect(name_or_url: str | None = None) -> AsyncIterator[RunningJob]:
    """A job that runs as a daemon, by its name or its API's URL; without either, the only one that runs here.

    Raises:
        DeploymentError: when there is no such job.
    """
    is_url = name_or_url is not None and "://" in name_or_url
    url = name_or_url if is_url and name_or_url is not None else find_running(name_or_url)[1]
    async with http_client(url) as http:
        yield RemoteJob(http)


def plan_of(what: Plan | Job | str | Path) -> Plan:
    """The checked plan of a plan, a job or either's file.

    Raises:
        HelixError: when it can't be read or planned, or isn't right.
    """
    if isinstance(what, Plan):
        return require_valid(what)
    if isinstance(what, Job):
        from helix_df.solvers.planner import make_plan

        return make_plan(what)
    path = Path(what)
    if path.suffix == ".json":
        return require_valid(read_plan(path), str(path))
    from helix_df.load import load_job

    return plan_of(load_job(path))


def require_valid(plan: Plan, where: str = "plan") -> Plan:
    """The plan itself, if nothing is wrong with it.

    Raises:
        PlanError: with what is wrong.
    """
    wrong = violations(plan)
    if wrong:
        raise PlanError(
            "the plan doesn't fit its job",
            where=where,
            found="; ".join(wrong[:5]),
            hint="make it again with `helix-df plan`",
        )
    return plan
