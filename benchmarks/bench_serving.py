"""The deployed quickstart beside the same model in one process: decode and prefill, alone and eight at a time.

    python -m pytest benchmarks/bench_serving.py

One round decodes ``DECODE`` tokens for each request, or runs a prompt of ``PROMPT`` tokens to its first token. The
pipeline has three workers with one compute thread each; the single process has every core. The limit beside decode is
memory bandwidth: all weights are read once a step, at the rate that a large copy reaches in the same run.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.serving import answer_all, prompts, serving
from helix_df.load import load_job
from helix_df.models.weights import load_shard
from helix_df.paths import cache_folder
from helix_df.plan.plan import Plan
from helix_df.planning import make_plan
from helix_df.profiles.read_geometry import read_geometry
from helix_df.runtime.sampling import SamplingParams
from helix_df.runtime.worker.compile_cache import enable_compile_cache
from helix_df.runtime.worker.device import backend_defaults, matrix_layout
from helix_df.runtime.worker.engine import Engine
from helix_df.runtime.worker.steps import Step

QUICKSTART = Path(__file__).parent.parent / "spec/examples/quickstart.yaml"
DECODE = 32
PROMPT = 256
ROUNDS = 5

Serve = Callable[[list[tuple[int, ...]], int], float]
"""Prompts and tokens an answer → seconds from the first token of all (or from the start, for one token) to the end."""


@pytest.fixture(scope="module")
def plan() -> Plan:
    job = load_job(QUICKSTART)
    # Rounds repeat their prompts, and are to compute them every time.
    runtime = job.runtime.model_copy(update={"prefix_cache": False})
    return make_plan(job.model_copy(update={"runtime": runtime}))


@pytest.fixture(scope="module")
def pipeline(plan: Plan) -> Iterator[Serve]:
    """The plan as worker processes, driven at the token level."""
    loop = asyncio.new_event_loop()
    job = serving(plan)
    coordinator = loop.run_until_complete(job.__aenter__())

    def serve(prompts: list[tuple[int, ...]], tokens: int) -> float:
        found = loop.run_until_complete(answer_all(coordinator, prompts, tokens))
        end = max(one.times_s[-1] for one in found)
        started = min(one.sent_s for one in found)
        return end - (started if tokens == 1 else max(one.times_s[0] for one in found))

    yield serve
    loop.run_until_complete(job.__aexit__(None, None, None))
    loop.close()


@pytest.fixture(scope="module")
def single(plan: Plan) -> Serve:
    """The whole model on one engine in this process, with every core."""
    enable_compile_cache(cache_folder("compiled"))
    source = plan.job.model.parsed_source
    shard = load_shard(source, read_geometry(source), layout=matrix_layout())
    engine = Engine(shard, num_pages=700, max_batch=16, max_context=2048, **backend_defaults())

    def serve(prompts: list[tuple[int, ...]], tokens: int) -> float:
        names = [str(index) for index in range(len(prompts))]
        started = time.perf_counter()
        inputs: Sequence[Sequence[int]] = prompts
        position = 0
        for turn in range(tokens):
            steps = [
                Step(name, engine.layers, position, np.asarray(ids, np.int32), None, SamplingParams())
                for name, ids in zip(names, inputs, strict=True)
            ]
            results = engine.run(steps)
            position += len(inputs[0])
            inputs = [(result.token or 0,) for result in results]
            if turn == 0 and tokens > 1:
                started = time.perf_counter()
        elapsed = time.perf_counter() - started
        for name in names:
            engine.release(name)
        return elapsed

    return serve


@pytest.fixture(scope="module")
def bytes_per_s() -> float:
    """What a copy far larger than any cache reaches: bytes read and written per second."""
    source = np.ones(1 << 27, np.float32)
    target = np.empty_like(source)
    rates = []
    for _ in range(5):
        started = time.perf_counter()
        np.copyto(target, source)
        rates.append(2 * source.nbytes / (time.perf_counter() - started))
    return statistics.median(rates)


@pytest.mark.parametrize("batch", [1, 8])
def test_decode(benchmark: Any, pipeline: Serve, single: Serve, plan: Plan, bytes_per_s: float, batch: int) -> None:
    asked = prompts(batch, 16)
    for serve in (single, pipeline):
        serve(asked, DECODE)
    alone, spread = [], []

    def both() -> None:
        alone.append(single(asked, DECODE))
        spread.append(pipeline(asked, DECODE))

    benchmark.pedantic(both, rounds=ROUNDS, iterations=1)
    tokens = batch * (DECODE - 1)
    ours, theirs = tokens / statistics.median(spread), tokens / statistics.median(alone)
    geometry = read_geometry(plan.job.model.parsed_source)
    weights = 4 * (geometry.num_layers * geometry.layer_parameters + geometry.embedding_parameters)
    benchmark.extra_info |= {
        "pipeline tok/s": f"{ours:.1f}",
        "one process tok/s": f"{theirs:.1f}",
        "ratio": f"{ours / theirs:.2f}",
        "bandwidth limit tok/s": f"{batch * bytes_per_s / weights:.0f} ({bytes_per_s / 1e9:.1f} GB/s)",
    }


@pytest.mark.parametrize("batch", [1, 8])
def test_prefill(benchmark: Any, pipeline: Serve, single: Serve, batch: int) -> None:
    asked = prompts(batch, PROMPT)
    for serve in (single, pipeline):
        serve(asked, 1)
    alone, spread = [], []

    def both() -> None:
        alone.append(single(asked, 1))
        spread.append(pipeline(asked, 1))

    benchmark.pedantic(both, rounds=ROUNDS, iterations=1)
    tokens = batch * PROMPT
    ours, theirs = tokens / statistics.median(spread), tokens / statistics.median(alone)
    benchmark.extra_info |= {
        "pipeline tok/s": f"{ours:.0f}",
        "one process tok/s": f"{theirs:.0f}",
        "ratio": f"{ours / theirs:.2f}",
    }
