"""Where a token's time goes while one request decodes over two workers, beside what a core's memory allows.

    python -m benchmarks.one_request_table [--rounds 3] [--tokens 96] [--weights stored]

SmolLM2 in halves, each worker on a core of its own. A token reads all weights once, one half after the other, so the
limit is their bytes over what one core reads (``benchmarks.peers.bandwidth``). Beside it, in processes that do nothing
else: the products alone, a stage's engine without a pipeline, and one message from process to process. Medians; parts
that are measured in the running pipeline are said so.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.halves import SMOLLM2, halves_plan
from benchmarks.peers.bandwidth import read_bytes_per_s
from benchmarks.serving import answer, prompts, serving
from helix_df.plan.plan import Plan
from helix_df.runtime.threads import with_large_pages, with_threads
from helix_df.runtime.wire.framing import decode, encode
from helix_df.runtime.wire.messages import Forward
from helix_df.runtime.wire.transport import listen

if TYPE_CHECKING:
    from helix_df.runtime.coordinator.shell import Coordinator

PROMPT = 64
HOPS = 3
"""Messages of a token: to the first worker, to the second, and home."""

BEATS_S = 4.5
"""Within which workers have told how long they have computed."""

_TOKEN = "0" * 32


@dataclass(frozen=True, slots=True)
class Stage:
    """A worker's half by itself: bytes of weights that a step multiplies with, and seconds."""

    weight_bytes: int
    products_s: float
    engine_s: float


def main() -> None:
    """Measure and print."""
    options = _options()
    plan = _plan(options.weights)
    with _fresh_process(0) as apart:
        stages = [apart.submit(_stage, plan, stage.node, options.tokens).result() for stage in plan.stages]
    found = asyncio.run(_pipeline(plan, options.rounds, options.tokens))
    bandwidth = statistics.median(read_bytes_per_s((0,)) for _ in range(options.rounds))
    _print(stages, found, bandwidth, _message_s(found[2]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Where a token's time goes at one request.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--weights", choices=("float32", "bfloat16", "stored"), default="float32")
    return parser.parse_args()


def _plan(weights: str) -> Plan:
    from dataclasses import replace

    plan = halves_plan(SMOLLM2, context=512, kv_tokens=2048, max_batch=1)
    model = plan.job.model.model_copy(update={"weights": weights})
    return replace(plan, job=plan.job.model_copy(update={"model": model}))


@contextmanager
def _fresh_process(core: int) -> Iterator[ProcessPoolExecutor]:
    """A process as a worker's is: of one thread, on a core."""
    before = dict(os.environ)
    os.environ.update(with_threads(before, 1) | with_large_pages(before))
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, context, initializer=_stay, initargs=(core,)) as apart:
            apart.submit(_stay, core).result()  # started with these flags
            yield apart
    finally:
        os.environ.clear()
        os.environ.update(before)


def _stay(core: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def _stage(plan: Plan, node: str, tokens: int) -> Stage:
    import jax
    import jax.numpy as jnp

    from helix_df.models.linear import linear
    from helix_df.models.packed import is_packed, packed_inputs
    from helix_df.paths import cache_folder
    from helix_df.runtime.sampling import SamplingParams
    from helix_df.runtime.worker.build import load_layers
    from helix_df.runtime.worker.compile_cache import enable_compile_cache
    from helix_df.runtime.worker.device import backend_defaults
    from helix_df.runtime.worker.engine import Engine
    from helix_df.runtime.worker.steps import Step

    enable_compile_cache(cache_folder("compiled"))
    job, layers = plan.job, next(stage.layers for stage in plan.stages if stage.node == node)
    shard = load_layers(job, layers, 1)
    matrices = [leaf for leaf in jax.tree.leaves(jax.tree.leaves(_multiplied(shard))) if leaf.ndim == 3]
    widths = [packed_inputs(one) if is_packed(one) else one.shape[1] for one in matrices]
    given = [jnp.ones((1, width), jnp.float32) for width in widths]
    products = jax.jit(lambda x, w: [linear(one, matrix) for one, matrix in zip(x, w, strict=True)])
    products_s = _median_s(lambda: [one.block_until_ready() for one in products(given, matrices)], 20)

    engine = Engine(shard, num_pages=16, max_batch=1, max_context=512, **backend_defaults())
    last = layers.stop == engine.geometry.num_layers
    hidden = np.ones((PROMPT + tokens, engine.geometry.hidden_size), np.float32)

    def step(start: int, stop: int) -> Step:
        sampling = SamplingParams() if last else None
        if layers.start == 0:
            return Step("r", layers, start, tokens=np.full(stop - start, 7, np.int32), sampling=sampling)
        return Step("r", layers, start, hidden=hidden[start:stop], sampling=sampling)

    engine.run([step(0, PROMPT)])
    positions = iter(range(PROMPT, PROMPT + tokens))
    engine_s = _median_s(lambda: engine.run([step(at := next(positions), at + 1)]), tokens - 1)
    return Stage(sum(one.nbytes for one in matrices), products_s, engine_s)


def _multiplied(shard: Any) -> list[Any]:
    """What a decode step multiplies with: the layers' matrices, and the head where it ends the model."""
    from flax import nnx

    head = shard.head if shard.head is not None else shard.embedding if shard.final_norm is not None else None
    blocks = [nnx.split(block)[1] for block in shard.blocks]
    return [*blocks, *([] if head is None else [head[...]])]


def _median_s(run: Callable[[], object], times: int) -> float:
    run()
    taken = []
    for _ in range(times - 1):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


async def _pipeline(plan: Plan, rounds: int, tokens: int) -> tuple[float, float, int]:
    """Seconds between tokens, those that workers computed of them, and numbers of a hidden state."""
    gaps: list[float] = []
    async with serving(plan) as coordinator:
        await answer(coordinator, prompts(1, PROMPT)[0], 8)
        busy_s, made = await _busy_s(coordinator), 0
        for turn in range(rounds):
            one = await answer(coordinator, prompts(turn + 2, PROMPT)[turn + 1], tokens)
            gaps += one.gaps_s
            made += len(one.tokens)
        computed_s = await _busy_s(coordinator) - busy_s
    return statistics.median(gaps), computed_s / made, plan.geometry.hidden_size


async def _busy_s(coordinator: Coordinator) -> float:
    """What both workers have computed so far, once they have told."""
    await asyncio.sleep(BEATS_S)
    return sum(node.busy_s for node in coordinator.snapshot().nodes)


def _message_s(width: int) -> float:
    """From process to process: a decode step's message, encoded, carried and decoded."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    other = context.Process(target=_echo, args=(theirs, 400), daemon=True)
    other.start()
    _stay(0)
    endpoint = listen("tcp://127.0.0.1:*")
    ours.send(endpoint.address)
    there = ours.recv()
    message = Forward("r/1", 100, True, None, np.ones((1, width), np.float32))

    def round_trip() -> None:
        endpoint.send(there, encode(message, _TOKEN))
        while not (frames := endpoint.receive(1.0)):
            pass
        decode(frames[0], _TOKEN)

    taken_s = _median_s(round_trip, 400)
    other.join()
    endpoint.close()
    return taken_s / 2


def _echo(ours: Connection, times: int) -> None:
    _stay(max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0)
    endpoint = listen("tcp://127.0.0.1:*")
    there = ours.recv()
    ours.send(endpoint.address)
    for _ in range(times):
        while not (frames := endpoint.receive(1.0)):
            pass
        endpoint.send(there, encode(decode(frames[0], _TOKEN), _TOKEN))
    time.sleep(0.2)
    endpoint.close()


def _print(stages: list[Stage], found: tuple[float, float, int], bandwidth: float, message_s: float) -> None:
    gap_s, computed_s, _ = found
    weight_bytes = sum(stage.weight_bytes for stage in stages)
    limit_s, products_s = weight_bytes / bandwidth, sum(stage.products_s for stage in stages)
    engine_s, messages_s = sum(stage.engine_s for stage in stages), HOPS * message_s
    print(f"One core reads {bandwidth / 1e9:.1f} GB/s; a token's weights are {weight_bytes / 1e6:.0f} MB.\n")
    print("| of a token | ms | share of the limit's speed |")
    print("|---|---|---|")
    rows = (
        ("the limit: reading its weights once", limit_s),
        ("products alone", products_s),
        ("both engines, by themselves", engine_s),
        ("both engines, in the pipeline (mean)", computed_s),
        ("in the pipeline, from token to token", gap_s),
    )
    for what, seconds in rows:
        print(f"| {what} | {1e3 * seconds:.2f} | {limit_s / seconds:.2f} |")
    print("\n| between the limit and the token | ms | share of a token |")
    print("|---|---|---|")
    parts = (
        ("products slower than reading", products_s - limit_s),
        ("attention, norms, sampling, and Python around programs", engine_s - products_s),
        ("engines slower in the pipeline than by themselves", computed_s - engine_s),
        (f"{HOPS} messages from process to process, {1e3 * message_s:.2f} ms each", messages_s),
        ("machines, the coordinator's loop, and waking up", gap_s - computed_s - messages_s),
    )
    for what, seconds in parts:
        print(f"| {what} | {1e3 * seconds:.2f} | {seconds / gap_s:.0%} |")


if __name__ == "__main__":
    main()
