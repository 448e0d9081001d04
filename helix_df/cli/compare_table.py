"""Several simulations side by side as a person reads them. Every number comes from the outcomes."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from helix_df.cli.console import print_trimmed
from helix_df.cli.words import labelled, number, plain_table, seconds
from helix_df.what_if import Simulated, row_of

HEADS = ("nodes", "flow", "decode/s", "prompt/s", "TTFT p50", "TTFT p95", "ITL p50", "ITL p95", "busy", "rejected")


def render_comparison(results: Sequence[Simulated], console: Console) -> None:
    """Print what all have in common, then a row each."""
    table = plain_table("variant", *HEADS, numbers=HEADS)
    for one in results:
        row = row_of(one)
        latencies = (row.ttft_p50_s, row.ttft_p95_s, row.itl_p50_s, row.itl_p95_s)
        table.add_row(
            row.name,
            str(row.nodes),
            number(row.flow),
            number(row.decode_tokens_per_s),
            number(row.prompt_tokens_per_s),
            *map(seconds, latencies),
            f"{row.busy:.0%}",
            f"{row.rejected:,}",
        )
    outcomes = [one.outcome for one in results]
    first = outcomes[0]
    common = []
    if len({outcome.trace for outcome in outcomes}) == 1:
        common.append(("trace", f"{first.trace}; seed {first.seed}"))
    stopped = ", the last stopped by you" if outcomes[-1].stopped else ""
    common.append(("window", f"{first.start_s:g} s to {first.end_s:g} s of simulated time{stopped}"))
    print_trimmed(console, labelled(common), "", table)
