"""Drives a job at the token level: requests in, the times of their tokens out."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from helix_df.plan.plan import Plan
from helix_df.runtime.coordinator.shell import Coordinator
from helix_df.runtime.jobs.coordinators import new_coordinator
from helix_df.runtime.requests import GenerationRequest
from helix_df.runtime.sampling import SamplingParams

SETTLED_S = 2.5
"""A worker tells every two seconds how many shapes it still has to compile."""

_numbers = itertools.count()


@dataclass(slots=True)
class Answered:
    """When a request was sent and its tokens came, in seconds of one clock, the tokens, and what was found in cache."""

    sent_s: float
    times_s: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    cached_tokens: int = 0

    @property
    def gaps_s(self) -> list[float]:
        """Seconds between tokens."""
        return [after - before for before, after in itertools.pairwise(self.times_s)]


@asynccontextmanager
async def serving(plan: Plan, *, start_s: float = 600) -> AsyncIterator[Coordinator]:
    """A job whose workers are up, with every shape compiled."""
    coordinator = new_coordinator(plan)
    await coordinator.start()
    try:
        await coordinator.wait_ready(start_s)
        await settle(coordinator)
        yield coordinator
    finally:
        await coordinator.close()


async def settle(coordinator: Coordinator) -> None:
    """Wait until no worker compiles in the background, which would be measured with it."""
    seen = 0
    while seen < 2:
        await asyncio.sleep(SETTLED_S)
        seen = 0 if any(node.cold_shapes for node in coordinator.snapshot().nodes) else seen + 1


async def answer(
    coordinator: Coordinator, prompt: Sequence[int], max_tokens: int, sampling: SamplingParams | None = None
) -> Answered:
    """One request to its end, greedy by default."""
    request = GenerationRequest(f"r{next(_numbers)}", tuple(prompt), max_tokens, sampling or SamplingParams())
    answered = Answered(time.perf_counter())
    async for event in coordinator.submit(request):
        answered.times_s.append(time.perf_counter())
        answered.tokens.append(event.token if event.token is not None else -1)
        answered.cached_tokens = max(answered.cached_tokens, event.cached_tokens)
    return answered


async def answer_all(coordinator: Coordinator, prompts: Iterable[Sequence[int]], max_tokens: int) -> list[Answered]:
    """Requests that are sent together."""
    return list(await asyncio.gather(*(answer(coordinator, prompt, max_tokens) for prompt in prompts)))


def prompts(count: int, length: int, vocabulary: int = 30_000) -> list[tuple[int, ...]]:
    """Prompts that share nothing."""
    return [
        tuple((31 * index + 7 * position) % (vocabulary - 200) + 100 for position in range(length))
        for index in range(count)
    ]
