"""What constraints and penalties cost a token: seconds between tokens, beside plain requests of the same length.

    XLA_FLAGS=--xla_cpu_multi_thread_eigen=false python -m benchmarks.constrained_table [ROUNDS]

SmolLM2 over two workers, 1 and 16 requests at a time, sampled. Every round asks for all kinds one after another, so
that whatever else the machine does meets all of them. Figures are medians over rounds of a round's median gap between
tokens; of the first tokens, for which masks aren't there yet, none counts.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from dataclasses import replace

from benchmarks.halves import SMOLLM2, halves_plan
from benchmarks.serving import answer, prompts, serving
from helix_df.runtime.constraints import Constraint
from helix_df.runtime.sampling import SamplingParams, Shaping

ROUNDS = 7
TOKENS = 96
PROMPT = 32
LEFT_OUT = 8
"""Gaps at an answer's beginning."""

_PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "kind": {"enum": ["friend", "colleague", "stranger"]},
        "notes": {"type": "array", "items": {"type": "string", "maxLength": 40}, "maxItems": 5},
    },
    "required": ["name", "age", "kind", "notes"],
    "additionalProperties": False,
}
# None of these answers ends before it has all its tokens.
_PEOPLE = {"type": "array", "items": _PERSON, "minItems": 1000}
KINDS: dict[str, SamplingParams] = {
    "plain": SamplingParams(temperature=1.0),
    "JSON Schema": SamplingParams(temperature=1.0, constraint=Constraint.json_schema(_PEOPLE)),
    "any JSON": SamplingParams(temperature=1.0, constraint=Constraint.json_schema({"type": "array", "minItems": 1000})),
    "regular expression": SamplingParams(temperature=1.0, constraint=Constraint.regex("([a-z]{2,9} ){1000}")),
    "penalties": SamplingParams(temperature=1.0, shaping=Shaping(presence_penalty=0.5, repetition_penalty=1.1)),
}


async def measure(at_once: int, rounds: int) -> dict[str, float]:
    """Seconds between tokens by kind."""
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    plan = halves_plan(SMOLLM2, context=256, kv_tokens=8192, link={}, max_batch=16)
    async with serving(plan) as coordinator:
        for turn in range(-1, rounds):
            for kind, params in KINDS.items():
                asked = [replace(params, seed=1000 * (turn + 1) + index) for index in range(at_once)]
                pairs = zip(prompts(at_once, PROMPT), asked, strict=True)
                answers = await asyncio.gather(*(answer(coordinator, one, TOKENS, own) for one, own in pairs))
                assert all(len(one.tokens) == TOKENS for one in answers), kind
                if turn >= 0:
                    gaps = [gap for one in answers for gap in one.gaps_s[LEFT_OUT:]]
                    found[kind].append(statistics.median(gaps))
    return {kind: statistics.median(gaps) for kind, gaps in found.items()}


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    print("| requests at a time | " + " | ".join(KINDS) + " |")
    print("|---|" + "---|" * len(KINDS))
    for at_once in (1, 16):
        found = asyncio.run(measure(at_once, rounds))
        cells = [f"{1e3 * gap:.2f} ms ({100 * (gap / found['plain'] - 1):+.1f} %)" for gap in found.values()]
        print(f"| {at_once} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
