"""What speculation gains and costs: SmolLM2 over three workers, by latency of the links, batch and kind of text.

    XLA_FLAGS=--xla_cpu_multi_thread_eigen=false python -m benchmarks.speculation_table [--latency 0.1 5 50 200]
        [--batch 1 4 16] [--kind repeats other] [--rounds 3] [--tokens 32] [--json FILE]

Two jobs of the same plan run beside each other, one with speculation; rounds of the same requests go to one and then to
the other, after a short one that isn't counted. Texts that repeat are code that is edited, passages that are quoted and
answered from, and a summary in quotations, greedily; the others are stories, opinions and lists of ideas, sampled at
temperature 1. Figures are medians of rounds: tokens/s after the first token, summed up over requests, and the mean time
to the next token, the median over requests. Answers are compared, too. Over links of 100 ms and more there are two
rounds, of three quarters of the tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.chain import chain_plan
from benchmarks.halves import SMOLLM2
from benchmarks.serving import Answered, answer, serving
from helix_df.models.tokenizer import load_tokenizer
from helix_df.runtime.coordinator.shell import Coordinator
from helix_df.runtime.sampling import SamplingParams
from helix_df.spec.source import parse_source
from helix_df.spec.speculation import Speculation

LATENCIES_MS = (0.1, 5.0, 50.0, 200.0)
BATCHES = (1, 4, 16)
CONTEXT = 512
FAR_MS = 100.0
WARM_UP = 6
"""Tokens of each answer of the round that isn't counted."""

CODE = """\
class Account:
    def __init__(self, owner, balance):
        self.owner = owner
        self.balance = balance

    def deposit(self, amount):
        if amount <= 0:
            raise ValueError("amount must be positive")
        self.balance = self.balance + amount
        return self.balance

    def withdraw(self, amount):
        if amount > self.balance:
            raise ValueError("not enough money")
        self.balance = self.balance - amount
        return self.balance
"""
PASSAGE = """\
The lighthouse at Cape Maria was built in 1879 from granite that was cut on the island of Tresco. Its lamp burned oil
until 1931, when the keeper, Edward Hale, had it changed to electric light. The tower is 41 metres high and its beam can
be seen from 33 kilometres away. Since 1988 nobody lives there, and the lamp is lit by a clock.
"""
REPEATS = (
    f"Here is a file:\n\n{CODE}\nThe same file, with `owner` renamed to `holder`:\n\nclass Account:\n    def __init__(",
    f"Here is a file:\n\n{CODE}\nThe same file, without the first method:\n\nclass Account:\n    def deposit(",
    f"Passage: {PASSAGE}\nThe passage again, word for word: ",
    f"Passage: {PASSAGE}\nWhen was it built, of what, and how high is it? Quote the passage. Answer: ",
    f"Text: {PASSAGE}\nSummary in quotations from the text: ",
)
OTHER = (
    "Once upon a time, in a village between two rivers, there lived",
    "My honest opinion about working from home is that",
    "Ten unusual ideas for a birthday party: 1.",
    "The history of the bicycle is full of surprises. At first",
    "Dear editor, I write to you because",
)
KINDS: dict[str, tuple[tuple[str, ...], float]] = {"repeats": (REPEATS, 0.0), "other": (OTHER, 1.0)}
"""Beginnings, and at which temperature they go on."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One row: rates in tokens/s, times in seconds, the shares of steps' drafts that were drawn, and answers that were
    the same."""

    latency_ms: float
    batch: int
    kind: str
    plain_rate: float
    drafted_rate: float
    plain_itl_s: float
    drafted_itl_s: float
    drafted: int
    accepted: int
    same: int
    answers: int

    @property
    def gain(self) -> float:
        """With over without."""
        return self.drafted_rate / self.plain_rate


def rate(found: Sequence[Answered]) -> float:
    """Tokens a second after the first of each, summed up: some requests are over before others."""
    return sum((len(one.tokens) - 1) / (one.times_s[-1] - one.times_s[0]) for one in found)


def median_gap_s(found: Sequence[Answered]) -> float:
    """Mean time to the next token, the median over requests: tokens come several at a time."""
    return statistics.median((one.times_s[-1] - one.times_s[0]) / (len(one.tokens) - 1) for one in found)


async def one_round(job: Coordinator, prompts: Sequence[tuple[int, ...]], tokens: int, heat: float) -> list[Answered]:
    """Requests that are sent together."""
    asked = (
        answer(job, prompt, tokens, SamplingParams(temperature=heat, seed=at)) for at, prompt in enumerate(prompts)
    )
    return list(await asyncio.gather(*asked))


async def measure(latency_ms: float, options: argparse.Namespace) -> Iterator[Measured]:
    """All rows of a latency, with both jobs up."""
    tokenizer, rows = load_tokenizer(parse_source(SMOLLM2)), []
    link = {"bandwidth": "1Gbps", "latency": f"{latency_ms}ms"}
    async with AsyncExitStack() as stack:
        plans = [
            chain_plan(SMOLLM2, 3, link, context=CONTEXT, prefix_cache=False, speculation=said)
            for said in (None, Speculation().model_dump())
        ]
        plain, drafting = [await stack.enter_async_context(serving(plan)) for plan in plans]
        for batch, kind in itertools.product(options.batch, options.kind):
            texts, heat = KINDS[kind]
            prompts = [tuple(tokenizer.encode(text)) for text, _ in zip(itertools.cycle(texts), range(batch))]
            rates: tuple[list[float], list[float]] = ([], [])
            gaps: tuple[list[float], list[float]] = ([], [])
            same, before = 0, drafting.snapshot()
            far = latency_ms >= FAR_MS
            rounds, tokens = min(options.rounds, 2) if far else options.rounds, options.tokens * (3 if far else 4) // 4
            for turn in range(-1, rounds):
                count = tokens if turn >= 0 else WARM_UP
                found = [await one_round(job, prompts, count, heat) for job in (plain, drafting)]
                if turn < 0:
                    before = drafting.snapshot()
                    continue
                same += sum(one.tokens == other.tokens for one, other in zip(*found, strict=True))
                for at, answers in enumerate(found):
                    rates[at].append(rate(answers))
                    gaps[at].append(median_gap_s(answers))
            after = drafting.snapshot()
            row = Measured(
                latency_ms,
                batch,
                kind,
                statistics.median(rates[0]),
                statistics.median(rates[1]),
                statistics.median(gaps[0]),
                statistics.median(gaps[1]),
                after.drafted_tokens - before.drafted_tokens,
                after.accepted_tokens - before.accepted_tokens,
                same,
                batch * rounds,
            )
            print(line(row), flush=True)
            rows.append(row)
    return iter(rows)


def line(row: Measured) -> str:
    """A row of the table."""
    share = f"{row.accepted / row.drafted:.0%} of {row.drafted}" if row.drafted else "none"
    rates = f"{row.plain_rate:.1f} | {row.drafted_rate:.1f} | {row.gain:.2f}"
    gaps = f"{1e3 * row.plain_itl_s:.0f} | {1e3 * row.drafted_itl_s:.0f}"
    same = f"{row.same} of {row.answers}"
    return f"| {row.latency_ms:g} ms | {row.batch} | {row.kind} | {rates} | {gaps} | {share} | {same} |"


def main(arguments: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, nargs="+", default=LATENCIES_MS, help="ms one way, of every link")
    parser.add_argument("--batch", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--kind", choices=list(KINDS), nargs="+", default=list(KINDS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32, help="of each answer")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    heads = "tokens/s without | with | gain | ITL without, ms | with | drafts drawn | same answers"
    print(f"| latency one way | requests | text | {heads} |\n|{'---|' * 10}")
    rows = [row for latency_ms in options.latency for row in asyncio.run(measure(latency_ms, options))]
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
