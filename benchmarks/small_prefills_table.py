"""What small pieces of prompts cost: the paper's placements by the runtime's rules, by two readings of its curves.

As published they run straight to zero below their first points; otherwise every pass reads the weights.

``python -m benchmarks.small_prefills_table [CLUSTER …]`` prints the table of ``docs/simulation.md``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from benchmarks.paper import published_setup
from helix_df.graph.stage_timing import TimingChoice
from helix_df.rules.batching import longest_piece
from helix_df.simulator.azure import azure_offline
from helix_df.simulator.options import Options
from helix_df.simulator.outcome import Outcome
from helix_df.simulator.simulate import simulate

CLUSTERS = ("single24", "hetero42", "geo24")
LIMITS = ((512, 16), (128, 64), (64, 64))
"""Prompt tokens and decode steps that a batch may have."""


def run(name: str, prefill: int, batch: int, timing: TimingChoice) -> Outcome:
    """600 s of a published placement, saturated, under limits on its batches."""
    options = Options(max_prefill_tokens=prefill, prefill_chunk=longest_piece(prefill), max_batch=batch)
    return simulate(published_setup(name, "helix-milp", timing), azure_offline(), options, form="compiled")


def rows(names: tuple[str, ...]) -> Iterator[str]:
    """Decode tokens/s and the median time to the first token, both ways."""
    for name in names:
        for prefill, batch in LIMITS:
            straight, weights = (run(name, prefill, batch, timing) for timing in ("published", "measured"))
            decode = f"{straight.decode_tokens_per_s:,.1f} | {weights.decode_tokens_per_s:,.1f}"
            change = weights.decode_tokens_per_s / straight.decode_tokens_per_s - 1
            first = " | ".join(f"{one.percentile('ttft', 50):.1f} s" for one in (straight, weights))
            yield f"| {name} | {prefill} / {batch} | {decode} | {change:+.1%} | {first} |"


def main() -> None:
    """Print the table."""
    heads = ("cluster", "prompt tokens / steps", "straight to zero", "reading weights", "change", "TTFT p50", "and so")
    print(f"| {' | '.join(heads)} |")
    print("|---|---|---|---|---|---|---|")
    for row in rows(tuple(sys.argv[1:]) or CLUSTERS):
        print(row, flush=True)


if __name__ == "__main__":
    main()
