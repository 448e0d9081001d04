"""What chosen serving rules are worth for real: emulated clusters under the language's defaults and under chosen rules.

    python -m benchmarks.chosen_rules_table             # about 15 minutes
    python -m benchmarks.chosen_rules_table --clusters mixed --pace 0.6

The clusters of ``promise_table``, seven worker processes each, layers pinned, saturated by requests of 20 to 90 prompt
and 8 to 24 generated tokens. Once with the defaults of the language (16 requests and 512 prompt tokens), once with what
the solver ``goodput`` chooses where the job says nothing. The gain that was measured stands beside the gain of the two
simulations; a machine that is too slow for the emulated speeds is named.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator

from benchmarks.promise_table import CLUSTERS, Run, measure, plan_of
from helix_df.benchmarking import Load
from helix_df.plan.plan import Plan
from helix_df.plan.serving import rules_of

DEFAULTS = {"max_batch": 16, "max_prefill_tokens": 512}
IN_FLIGHT = 160
"""Requests under way at all times: more than the default batches of all stages hold."""

SEARCH = {"work": 400, "explore": 100, "screened": 4, "orders": 0, "climbs": 64}
"""Of a search that has only rules and flows to choose."""


def plans(cluster: str, pace: float) -> tuple[Plan, Plan]:
    """By the defaults, and by what a search chooses."""
    chosen = plan_of(cluster, batches={}, pace=pace, name="goodput", time_limit="300s", options=SEARCH)
    return plan_of(cluster, batches=DEFAULTS, pace=pace), chosen


def rows(cluster: str, chosen: Plan, before: Run, after: Run) -> Iterator[str]:
    """Both runs and the gain."""
    figures = []
    for words, run in (("defaults", before), (str(rules_of(chosen.served)), after)):
        simulated = run.report.simulated.tokens_per_s if run.report.simulated is not None else float("nan")
        measured = run.report.measured.tokens_per_s
        figures.append((measured, simulated))
        apart = measured / simulated - 1
        yield f"| {cluster} | {words} | {measured:.1f} | {simulated:.1f} | {apart:+.1%} | {run.kept_up} |"
    (measured, simulated), (measured_after, simulated_after) = figures
    gain, promised = measured_after / measured, simulated_after / simulated
    yield f"| {cluster} | **gain** | {gain:.2f} | {promised:.2f} | {gain / promised - 1:+.1%} | |"


async def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clusters", nargs="+", choices=CLUSTERS, default=list(CLUSTERS))
    parser.add_argument("--seconds", type=float, default=60.0, help="of the window")
    parser.add_argument("--warmup", type=float, default=30.0, help="seconds before it")
    parser.add_argument("--pace", type=float, default=1.0, help="of the nodes' speeds, where this machine is too slow")
    asked = parser.parse_args()
    load = Load(asked.seconds, asked.warmup, IN_FLIGHT)
    print("| cluster | rules | measured tokens/s | simulated | difference | batches |\n|---|---|---|---|---|---|")
    for cluster in asked.clusters:
        defaults, chosen = plans(cluster, asked.pace)
        before, after = await measure(defaults, load), await measure(chosen, load)
        print("\n".join(rows(cluster, chosen, before, after)), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
