"""Who goes first: requests that come at a rate, in order of arrival and the shortest prompt first with ageing.

    python -m benchmarks.waiting_order_table [CLUSTER …] [--plans FOLDER] [--token-ms 10]

LLaMA-2-70B on the Helix paper's clusters with measured curves, by the runtime's rules: the paper's placements with the
links that were published with them, and plans (``CLUSTER.plan.json``, as ``goodput_table --keep`` writes them) under
the rules that they chose. Requests come for half an hour after two minutes of warm-up, at shares of what each serves
when requests never run out, on three seeds taken together. ``TTFT`` and ``ITL`` in seconds, in order of arrival →
shortest first. ``--token-ms`` is what a token of a prompt counts for (``rules/waiting_order.py``).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.goodput_table import CLUSTERS, SEEDS, WHOLE, Contestant, Court
from benchmarks.paper import published_setup
from helix_df.plan.plan import read_plan
from helix_df.plan.serving import rules_of, with_rules
from helix_df.rules import waiting_order
from helix_df.simulator.azure import azure_online, lengths
from helix_df.simulator.options import options_of
from helix_df.simulator.setup import setup_of
from helix_df.simulator.simulation import Course, Simulation

SHARES = (0.7, 0.9, 0.95, 1.0)
"""Rates, as shares of the requests/s that are served when they never run out."""

SECONDS, WARM_UP_S = 1800.0, 120.0

COLUMNS = ("placement", "rate", "requests/s", "tokens/s", "TTFT p50", "p95", "p99", "worst", "ITL p95")


@dataclass(frozen=True, slots=True)
class Arrived:
    """What came of the arrivals of all seeds; times in seconds."""

    tokens_per_s: float
    ttft_s: npt.NDArray[np.float64]
    itl_p95_s: float


def served_per_s(court: Court, contestant: Contestant) -> float:
    """Requests/s when they never run out."""
    outputs = [output for _, output in lengths()]
    run = court.offline(contestant, SEEDS[0], WHOLE)
    return run.decode_tokens / run.course.options.seconds / (sum(outputs) / len(outputs))


def arrived(contestant: Contestant, rate: float, shortest_first: bool) -> Arrived:
    """Requests at a rate, in one of the orders."""
    setup, job = contestant
    ordered = with_rules(job, replace(rules_of(job), shortest_first=shortest_first))
    runs = []
    for seed in SEEDS:
        options = options_of(ordered, seed=seed, seconds=SECONDS, warmup_s=WARM_UP_S)
        run = Simulation(setup, Course(azure_online(rate, options.end_s, seed), options), form="compiled")
        run.run()
        runs.append(run)
    tokens = sum(run.decode_tokens for run in runs) / SECONDS / len(runs)
    gaps_s = np.concatenate([run.gaps_s for run in runs])
    ttft_s = np.concatenate([run.ttft_s for run in runs])
    return Arrived(tokens, ttft_s, float(np.percentile(gaps_s, 95)))


def cells(one: Arrived, other: Arrived) -> Iterator[str]:
    """The figures of both orders."""
    yield f"{one.tokens_per_s:,.1f} → {other.tokens_per_s:,.1f}"
    for percent in (50, 95, 99, 100):
        yield " → ".join(f"{np.percentile(order.ttft_s, percent):.2f}" for order in (one, other))
    yield f"{one.itl_p95_s:.2f} → {other.itl_p95_s:.2f}"


def rows(court: Court, who: str, contestant: Contestant, shares: Sequence[float]) -> Iterator[str]:
    """A placement at all rates."""
    full = served_per_s(court, contestant)
    for share in shares:
        both = [arrived(contestant, share * full, shortest_first) for shortest_first in (False, True)]
        yield f"| {court.name}, {who} | {share:.2f} | {share * full:.2f} | {' | '.join(cells(*both))} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plans", type=Path, help="a folder with plans")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of what is served at most")
    parser.add_argument("--token-ms", type=float, help="of waiting that a token of a prompt counts for")
    parser.add_argument("clusters", nargs="*", default=list(CLUSTERS))
    asked = parser.parse_args()
    if asked.token_ms is not None:
        waiting_order.PROMPT_TOKEN_S = asked.token_ms / 1000
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for name in asked.clusters:
        court = Court(name, "runtime")
        published = published_setup(name, "helix-milp", court.timing), court.job
        for row in rows(court, "published", published, asked.shares):
            print(row, flush=True)
        path = asked.plans / f"{name}.plan.json" if asked.plans is not None else None
        if path is not None and path.exists():
            plan = read_plan(path)
            for row in rows(court, "ours", (setup_of(plan, timing=court.timing), plan.served), asked.shares):
                print(row, flush=True)


if __name__ == "__main__":
    main()
