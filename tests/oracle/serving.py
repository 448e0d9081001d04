"""A model split over three embedded workers by hand, with partial inference, and what it answers."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from helix_df.graph.compile import compile_problem
from helix_df.graph.max_flow import placement_flow
from helix_df.layers import LayerRange
from helix_df.plan.plan import SolverReport, assemble
from helix_df.runtime.coordinator.shell import Coordinator
from helix_df.runtime.jobs.coordinators import new_coordinator
from helix_df.runtime.requests import GenerationRequest, TokenEvent
from helix_df.runtime.sampling import SamplingParams
from helix_df.spec.job import Job


@asynccontextmanager
async def served(source: str, num_layers: int, context: int = 256) -> AsyncIterator[Coordinator]:
    """The model behind three workers: the second holds layers of the first's, which requests skip there."""
    cut, overlap, second = num_layers // 3, max(0, num_layers // 3 - 1), math.ceil(2 * num_layers / 3)
    placement = {
        "first": LayerRange(0, cut),
        "second": LayerRange(overlap, second),
        "third": LayerRange(second, num_layers),
    }
    profile = {"tokens_per_s": [100.0] * num_layers, "kv_tokens": [2048] * num_layers}
    job = Job.model_validate(
        {
            "model": {"source": source, "context": context},
            "gpus": {"any": {"memory": "1GiB", "profile": profile}},
            "nodes": {name: {"gpu": "any"} for name in placement},
            "links": {"default": {"bandwidth": "10Gbps"}},
            "runtime": {"max_batch": 4, "max_prefill_tokens": 16},
        }
    )
    problem = compile_problem(job)
    report = SolverReport("hand", None, "finished", "", None, 0.0)
    plan = assemble(job, problem, placement, placement_flow(problem, placement), report)
    coordinator = new_coordinator(plan, embedded=True)
    try:
        await coordinator.start()
        await coordinator.wait_ready(300)
        yield coordinator
    finally:
        await coordinator.close()


async def greedy(coordinator: Coordinator, name: str, prompt: list[int], count: int) -> list[TokenEvent]:
    """``count`` greedy tokens with the log-probabilities of the 20 best."""
    request = GenerationRequest(name, tuple(prompt), count, SamplingParams(logprobs=20))
    return [event async for event in coordinator.submit(request)]
