"""Decoding while long prompts arrive: the time between tokens with prompts in pieces, and without.

    python -m benchmarks.mixed_table [--quick]

A two-worker pipeline decodes for 16 requests while prompts of 1,024 tokens arrive one after the other. In pieces, a
prompt runs a few tokens at a time beside decode steps (``runtime.max_prefill_tokens``); whole, it holds a stage up for
as long as it takes. All pipelines are up at once and take turns; only one works at a time. What pieces cost is the time
to the first token of the prompts.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np

from benchmarks.halves import SMOLLM2, halves_plan, small_llama
from benchmarks.serving import Answered, answer, answer_all, prompts, serving
from helix_df.runtime.coordinator.shell import Coordinator

DECODING = 16
PROMPT = 1024
PIECES = (64, 128, 256, PROMPT)


async def mixed(coordinator: Coordinator, long_prompts: int, decoding: int) -> tuple[list[Answered], list[Answered]]:
    """Requests that decode all the while, and prompts that arrive, each as the one before has its first token."""
    steady = asyncio.create_task(answer_all(coordinator, prompts(DECODING, 16), decoding))
    await asyncio.sleep(0)
    arrived = []
    for prompt in prompts(long_prompts, PROMPT):
        arrived.append(await answer(coordinator, prompt, 1))
    return await steady, arrived


async def measure(source: str, rounds: int, long_prompts: int, decoding: int) -> None:
    async with AsyncExitStack() as stack:
        jobs = {
            piece: await stack.enter_async_context(
                serving(halves_plan(source, max_prefill_tokens=piece, max_batch=32, prefix_cache=False))
            )
            for piece in PIECES
        }
        gaps: dict[int, list[list[float]]] = {piece: [] for piece in PIECES}
        firsts: dict[int, list[float]] = {piece: [] for piece in PIECES}
        rates: dict[int, list[float]] = {piece: [] for piece in PIECES}
        for _ in range(rounds):
            for piece, job in jobs.items():
                steady, arrived = await mixed(job, long_prompts, decoding)
                begin, end = arrived[0].sent_s, arrived[-1].times_s[0]
                inside = [
                    after - before
                    for one in steady
                    for before, after in zip(one.times_s, one.times_s[1:], strict=False)
                    if after > begin and before < end
                ]
                gaps[piece].append(inside)
                firsts[piece] += (one.times_s[0] - one.sent_s for one in arrived)
                rates[piece].append(sum(begin < at < end for one in steady for at in one.times_s) / (end - begin))
        print(
            "| prompts in pieces of | ITL p50, ms | ITL p95, ms | against whole | decode tokens/s meanwhile | TTFT, s |"
        )
        print("|---|---|---|---|---|---|")
        whole = statistics.median(float(np.percentile(found, 95)) for found in gaps[PROMPT])
        for piece in PIECES:
            p50, p95 = (statistics.median(float(np.percentile(found, at)) for found in gaps[piece]) for at in (50, 95))
            print(
                f"| {piece if piece < PROMPT else 'whole'} | {1e3 * p50:.0f} | {1e3 * p95:.0f} | {whole / p95:.1f} "
                f"| {statistics.median(rates[piece]):.1f} | {statistics.median(firsts[piece]):.2f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--model", choices=("llama", "smollm2"), default="llama")
    asked = parser.parse_args()
    rounds, long_prompts, decoding = (1, 2, 40) if asked.quick else (3, 4, 160)
    with tempfile.TemporaryDirectory() as folder:
        source = SMOLLM2 if asked.model == "smollm2" else small_llama(Path(folder))
        asyncio.run(measure(source, rounds, long_prompts, decoding))


if __name__ == "__main__":
    main()
