"""Thousands of requests through one job: what is compiled, what memory grows by, and whether every KV page comes back.

    python -m benchmarks.soak_table [--requests 2000] [--model tiny|smollm2]

Requests of random lengths, greedy and sampled, 16 at a time; one in eight is given up after a few tokens, as when a
client disconnects, and one in four begins like another. Figures are what the workers say of themselves.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import resource
from contextlib import aclosing
from pathlib import Path

from benchmarks.halves import SMOLLM2, geometry_of, halves_plan
from benchmarks.serving import SETTLED_S, serving, settle
from helix_df.runtime.coordinator.shell import Coordinator
from helix_df.runtime.requests import GenerationRequest
from helix_df.runtime.sampling import SamplingParams

AT_ONCE = 16
LOOKS = 8
MODELS = {"tiny": "random:tiny-16", "smollm2": SMOLLM2}


async def ask(job: Coordinator, number: int, chance: random.Random, vocabulary: int, context: int) -> int:
    """One request; the tokens it was given."""
    length = min(int(chance.lognormvariate(3.5, 1.2)) + 1, context // 2)
    beginning = chance.choice((7, chance.randrange(vocabulary)))
    prompt = tuple((beginning + 13 * position) % vocabulary for position in range(length))
    most = min(int(chance.lognormvariate(2.5, 1.0)) + 1, context // 2)
    sampling = SamplingParams(temperature=chance.choice((0.0, 0.8)), seed=number)
    patience = chance.randrange(1, 6) if number % 8 == 0 else most
    tokens = 0
    async with aclosing(job.submit(GenerationRequest(f"s{number}", prompt, most, sampling))) as events:
        async for _ in events:
            tokens += 1
            if tokens >= patience:
                break
    return tokens


async def soak(source: str, requests: int, context: int) -> None:
    vocabulary = geometry_of(source).vocab_size
    numbers = iter(range(requests))
    done = tokens = 0
    async with serving(halves_plan(source, context=context, kv_tokens=8192)) as job:

        async def client(seed: int, upto: int) -> None:
            nonlocal done, tokens
            chance = random.Random(seed)
            while done < upto and (number := next(numbers, None)) is not None:
                given = await ask(job, number, chance, vocabulary, context)
                tokens += given
                done += 1

        print("| requests | tokens | programs, first | second | memory, first, MB | second, MB | coordinator, MB |")
        print("|---|---|---|---|---|---|---|")
        report(job, 0, 0)
        for look in range(1, LOOKS + 1):
            await asyncio.gather(*(client(100 * look + i, requests * look // LOOKS) for i in range(AT_ONCE)))
            await asyncio.sleep(SETTLED_S)
            report(job, done, tokens)
        await settle(job)
        status = job.snapshot()
        kept = {node.name: node.kv_kept_tokens for node in status.nodes}
        held = {node.name: node.kv_held_tokens for node in status.nodes}
        print(f"\nAt the end {status.running} run and {status.waiting} wait; {status.finished} finished.")
        print(f"KV tokens in owned pages: {held}; kept for reuse, by the coordinator's count: {kept}.")
        print(f"Requests that began with kept pages: {status.prefix_hits}.")


def report(job: Coordinator, done: int, tokens: int) -> None:
    nodes = job.snapshot().nodes
    programs = " | ".join(str(node.compiled_programs) for node in nodes)
    memory = " | ".join(f"{node.memory_bytes / 1e6:,.0f}" for node in nodes)
    print(f"| {done:,} | {tokens:,} | {programs} | {memory} | {_own_bytes() / 1e6:,.0f} |", flush=True)


def _own_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--model", choices=sorted(MODELS), default="tiny")
    parser.add_argument("--context", type=int, default=512)
    asked = parser.parse_args()
    asyncio.run(soak(MODELS[asked.model], asked.requests, asked.context))


if __name__ == "__main__":
    main()
