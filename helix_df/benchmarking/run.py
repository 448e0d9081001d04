"""Benchmark a job that runs: find it, wait until it is at rest, replay the trace, simulate its plan.

Owns what is compared with what: the plan in the job's folder, under the very requests that were sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from helix_df.benchmarking.figures import Figures, measured_figures, simulated_figures
from helix_df.benchmarking.measured_drafts import MeasuredDrafts, drafts_between
from helix_df.benchmarking.replay import Load, OnToken, Replayed, replay
from helix_df.benchmarking.report import BenchReport
from helix_df.errors import DeploymentError, SimulationError
from helix_df.plan.plan import Plan, read_plan
from helix_df.runtime.api.client import RemoteJob, RunningJob, http_client
from helix_df.runtime.jobs.directory import find_running
from helix_df.runtime.requests import JobStatus
from helix_df.simulator import options_of, predict
from helix_df.simulator.prediction import held_in_flight
from helix_df.simulator.trace import Trace

LOOK_S = 1.0
PATIENCE_S = 300.0


async def bench(
    name: str | None,
    trace: Trace,
    load: Load | None = None,
    *,
    scale: float | None = None,
    predict: bool = True,
    stop: asyncio.Event | None = None,
    on_token: OnToken = lambda now_s, tokens: None,
    on_wait: Callable[[int], None] = lambda shapes: None,
) -> BenchReport:
    """Replay a trace against a job that runs on this machine, and set what users got beside the simulator's prediction.

    Args:
        name: of the job; by default the only one that runs.
        trace: ``helix_df.simulator.trace_names.find_trace``, for one; see ``fitted`` for what becomes of its lengths.
        load: window, requests in flight and seed.
        scale: of the trace's lengths; by default as long as the longest request fits.
        predict: simulate the job's plan too.
        stop: ends it early once it is set; the report says what is done so far.
        on_token: called with seconds and tokens so far whenever tokens came.
        on_wait: called every second with how many shapes workers have left to compile before it begins.

    Raises:
        DeploymentError: when there is no such job, it isn't ready, or it doesn't answer any more.
        SimulationError: when requests of this scale don't fit the job.
    """
    directory, access = await asyncio.to_thread(find_running, name)
    plan = read_plan(directory.plan_path)
    async with http_client(access) as http:
        job = RemoteJob(http)
        status = await at_rest(job, directory.name, on_wait)
        remarks = (f"{status.running} other requests were running",) if status.running else ()
        report = await bench_job(
            job, plan, trace, load, scale=scale, predict=predict, stop=stop, on_token=on_token, status=status
        )
        return replace(report, remarks=remarks)


async def bench_job(
    job: RunningJob,
    plan: Plan,
    trace: Trace,
    load: Load | None = None,
    *,
    scale: float | None = None,
    predict: bool = True,
    stop: asyncio.Event | None = None,
    on_token: OnToken = lambda now_s, tokens: None,
    status: JobStatus | None = None,
) -> BenchReport:
    """``bench`` for a job at hand, such as ``deploy`` gives one, that runs ``plan`` and is at rest."""
    status = status or await job.status()
    geometry = plan.geometry
    context = min(plan.job.model.context or geometry.context_length, geometry.context_length)
    room = min((context, *(node.kv_capacity_tokens for node in status.nodes if node.state == "ready")))
    sent, factor = fitted(trace, room, scale)
    load = replace(load or Load(), vocabulary=geometry.vocab_size)
    replayed = await replay(job, sent, load, stop=stop, on_token=on_token)
    drafts = await _drafts_since(job, status, replayed)
    predicts = predict and replayed.end_s > replayed.start_s
    return BenchReport(
        job=plan.job.name,
        trace=trace.name,
        saturating=trace.saturating,
        scale=factor,
        load=load,
        flow=plan.flow,
        replayed=replayed,
        measured=measured_figures(replayed),
        simulated=await asyncio.to_thread(predicted, plan, sent, load, replayed, drafts) if predicts else None,
        drafts=drafts,
    )


async def _drafts_since(job: RunningJob, before: JobStatus, replayed: Replayed) -> MeasuredDrafts | None:
    """What became of drafts during a replay, as far as the job is still there to tell."""
    if replayed.gone is not None:
        return None
    try:
        return drafts_between(before, await job.status())
    except DeploymentError:
        return None


def fitted(trace: Trace, room: int, scale: float | None = None) -> tuple[Trace, float]:
    """The trace as it is sent, and what its lengths were multiplied by.

    By default lengths stay, or shrink until the longest request fits ``room`` tokens. Requests ask for exactly what
    they are to generate.

    Raises:
        SimulationError: when requests of the given ``scale`` don't fit.
    """
    factor = min(1.0, room / trace.longest) if scale is None else scale
    if not 0 < factor < float("inf"):
        raise SimulationError("lengths can't be scaled so", where="scale", found=scale, expected="a number above 0")
    sent = trace.exact() if factor == 1 else trace.exact().scaled(factor)
    if sent.longest > room:
        raise SimulationError(
            "the longest request doesn't fit",
            where="scale",
            found=f"{sent.longest} tokens, prompt and output",
            expected=f"at most {room}, by the job's context and KV cache",
            hint="leave the scale away, and it is chosen so that all fit",
        )
    return sent, factor


def predicted(plan: Plan, sent: Trace, load: Load, replayed: Replayed, drafts: MeasuredDrafts | None = None) -> Figures:
    """What the simulator says of the plan under the same requests, over the same window.

    Where the trace ran out, the simulation's window ends likewise when all is answered. Drafted tokens are right as
    often as ``drafts`` says they were, else as the job expects.
    """
    found = {} if drafts is None else {"acceptance": drafts.acceptance, "coverage": drafts.coverage}
    options = options_of(
        plan.served,
        seconds=load.seconds if replayed.run_out else replayed.end_s - replayed.start_s,
        warmup_s=load.warmup_s if replayed.run_out else replayed.start_s,
        seed=plan.job.solver.seed,  # what a scheduler draws at random is the job's
        **found,
    )
    outcome = predict(plan, sent, held_in_flight(options, load.in_flight))
    return simulated_figures(outcome, until_empty=replayed.run_out)


async def at_rest(job: RunningJob, name: str, on_wait: Callable[[int], None]) -> JobStatus:
    """The job's status once no worker compiles any more; they do it only while nobody asks.

    Raises:
        DeploymentError: when it has no full path through the layers.
    """
    waited = 0.0
    while True:
        status = await job.status()
        if not status.ready:
            late = ", ".join(f"{node.name} is {node.state}" for node in status.nodes if node.state != "ready")
            raise DeploymentError(
                f"job {name} is not ready", found=status.detail or late or status.state, hint="ask `helix-df status`"
            )
        cold = sum(node.cold_shapes for node in status.nodes)
        if cold == 0 or status.running or waited > PATIENCE_S:
            return status
        on_wait(cold)
        await asyncio.sleep(LOOK_S)
        waited += LOOK_S
