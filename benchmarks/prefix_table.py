"""Time to first token with and without prefix reuse: prompts that share 512 tokens, over two workers of SmolLM2.

    XLA_FLAGS=--xla_cpu_multi_thread_eigen=false python -m benchmarks.prefix_table

A round asks with a beginning that nobody has asked with, and then twice with the same beginning and 16 other tokens at
the end. The first computes the whole prompt, the others its end alone. Figures are medians of all rounds, one request
at a time. The second row is the same over an emulated slow link, which reused hidden states don't cross.
"""

from __future__ import annotations

import asyncio
import statistics

from benchmarks.halves import SMOLLM2, halves_plan
from benchmarks.serving import answer, serving
from helix_df.plan.plan import Plan

SHARED, OWN = 512, 16
ROUNDS = 5
SLOW = {"bandwidth": "20Mbps", "latency": "20ms"}


async def measure(plan: Plan) -> tuple[list[float], list[float]]:
    """Seconds to first token of prompts that are computed whole, and of those that share."""
    whole: list[float] = []
    shared: list[float] = []
    async with serving(plan) as coordinator:
        for turn in range(-1, ROUNDS):
            beginning = (100 + turn, *((7 * position) % 40_000 + 100 for position in range(1, SHARED)))
            for ask in range(3):
                prompt = (*beginning, *(5_000 + 100 * ask + position for position in range(OWN)))
                answered = await answer(coordinator, prompt, 1)
                assert answered.cached_tokens == (SHARED if ask else 0), answered
                if turn >= 0:
                    (shared if ask else whole).append(answered.times_s[0] - answered.sent_s)
    return whole, shared


def main() -> None:
    print(f"| link between the workers | TTFT of {SHARED + OWN} tokens | {SHARED} of them reused | ratio |")
    print("|---|---|---|---|")
    for words, link in (("not emulated", {}), (" ".join(SLOW.values()), SLOW)):
        plan = halves_plan(SMOLLM2, context=576, kv_tokens=8192, link=link, max_batch=1)
        whole, shared = map(statistics.median, asyncio.run(measure(plan)))
        print(f"| {words} | {1e3 * whole:.0f} ms | {1e3 * shared:.0f} ms | {whole / shared:.1f} |", flush=True)


if __name__ == "__main__":
    main()
