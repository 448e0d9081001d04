"""What distribution costs beside computing: seconds a hop, and the coordinator's processor time a token.

    python -m benchmarks.overhead_table

Two worker processes on loopback, each with an engine that computes nothing: it answers at once with hidden states of
64 float32, or with a token. A token then goes from the coordinator to the first worker, on to the second and home:
three hops, and everything that is left of its time is overhead. How many pipelines a router picks in a second is in
``bench_routing.py``.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import numpy as np

from benchmarks.halves import halves_plan
from benchmarks.serving import answer_all, prompts
from helix_df.runtime.coordinator.shell import Coordinator
from helix_df.runtime.jobs.coordinators import new_coordinator
from helix_df.runtime.requests import EngineHealth
from helix_df.runtime.wire.messages import Welcome
from helix_df.runtime.wire.transport import listen
from helix_df.runtime.worker.shell import Report, StepEngine, Worker
from helix_df.runtime.worker.steps import Step, StepResult

HIDDEN = 64
"""Of ``random:tiny``."""
HOPS = 3
TOKENS = 400
ROUNDS = 5


class IdleEngine:
    """Answers every step at once."""

    kv_tokens = 40_000
    health = EngineHealth()

    def __init__(self, num_layers: int) -> None:
        self._num_layers = num_layers

    def run(self, steps: Sequence[Step]) -> Sequence[StepResult]:
        """See ``StepEngine``."""
        return [self._result(step) for step in steps]

    def _result(self, step: Step) -> StepResult:
        if step.layers.stop < self._num_layers:
            return StepResult(step.request, hidden=np.zeros((len(step.inputs), HIDDEN), np.float32))
        return StepResult(step.request, token=None if step.sampling is None else 1)

    def release(self, request: str) -> None:
        """See ``StepEngine``."""

    def fork(self, parent: str, child: str, tokens: int) -> None:
        """See ``StepEngine``."""

    def trim(self, request: str, tokens: int) -> None:
        """See ``StepEngine``."""

    def warm_up(self) -> Iterator[object]:
        """See ``StepEngine``."""
        return iter(())

    def compile_next(self) -> None:
        """See ``StepEngine``: there is nothing to compile."""


def _build(welcome: Welcome, report: Report) -> StepEngine:
    return IdleEngine(welcome.num_layers)


def serve_idle(node: str, coordinator: str, token: str) -> None:
    Worker(node, listen("tcp://127.0.0.1:*"), coordinator, token, _build).run()


@asynccontextmanager
async def idle_job() -> AsyncIterator[Coordinator]:
    """A coordinator, ready, with two worker processes that compute nothing."""
    plan = halves_plan("random:tiny", context=512, launcher="external", max_batch=64, prefix_cache=False)
    coordinator = new_coordinator(plan)
    await coordinator.start()
    spawn = multiprocessing.get_context("spawn")
    workers = [
        spawn.Process(target=serve_idle, args=(node, coordinator.address, coordinator.token), daemon=True)
        for node in ("first", "second")
    ]
    for worker in workers:
        worker.start()
    try:
        await coordinator.wait_ready(120)
        yield coordinator
    finally:
        await coordinator.close()
        for worker in workers:
            worker.join(10)


async def _measure() -> None:
    async with idle_job() as coordinator:
        print("| requests at once | a hop, p50, ms | p95, ms | tokens/s | coordinator's processor time a token, ms |")
        print("|---|---|---|---|---|")
        for count in (1, 16, 64):
            await _row(coordinator, count)


async def _row(coordinator: Coordinator, count: int) -> None:
    hops: list[float] = []
    rates: list[float] = []
    processor: list[float] = []
    for turn in range(ROUNDS + 1):
        cpu, wall = time.process_time(), time.perf_counter()
        answers = await answer_all(coordinator, prompts(count, 4, 300), 32 if count > 1 else TOKENS)
        tokens = sum(len(one.times_s) for one in answers)
        if turn:
            hops += (gap / HOPS for one in answers for gap in one.gaps_s)
            rates.append(tokens / (time.perf_counter() - wall))
            processor.append((time.process_time() - cpu) / tokens)
    p50, p95 = np.percentile(hops, (50, 95))
    print(
        f"| {count} | {1e3 * p50:.2f} | {1e3 * p95:.2f} | {statistics.median(rates):,.0f} "
        f"| {1e3 * statistics.median(processor):.3f} |",
        flush=True,
    )


if __name__ == "__main__":
    asyncio.run(_measure())
