"""The Helix paper's published simulations beside ours: ``python -m benchmarks.fidelity_table [PATTERN]``.

Rows whose name contains PATTERN only. Published numbers, rates and requests in flight are the artifact's (Mei et al.,
ASPLOS'25, arXiv 2406.01566); the rules are ``helix_df.simulator.artifact.ARTIFACT``. LLaMA-30B on single24 and geo24:
Helix and separate pipelines are one chain a GPU type, as published.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from benchmarks.paper import all_ways, chain_of, published_setup, scheduling_study, swarm_30b
from helix_df.simulator import Outcome, Setup, simulate
from helix_df.simulator.artifact import artifact_baseline, artifact_offline, artifact_online
from helix_df.simulator.azure import azure_offline, azure_online, mean_tokens
from helix_df.simulator.options import Options

ONLINE_S = 1800.0


@dataclass(frozen=True)
class Part:
    """One run of a row: a lazily built setup, its rules, and the tokens/s that arrive (``None``: saturating)."""

    setup: Callable[[], Setup]
    options: Options
    tokens_per_s: float | None = None

    def run(self, seed: int = 0) -> Outcome:
        options = replace(self.options, seed=seed)
        if self.tokens_per_s is None:
            return simulate(self.setup(), azure_offline(), options)
        return simulate(self.setup(), azure_online(self.tokens_per_s / mean_tokens(), ONLINE_S), options)


@dataclass(frozen=True)
class Row:
    """Published decode tokens/s, and p50 and p95 of prompt and decode latency in seconds where published."""

    name: str
    published: float
    parts: Sequence[Part]
    latencies: tuple[float, float, float, float] | None = None


def published_part(name: str, method: str, in_flight: int | None = None, rate: float | None = None) -> Part:
    def setup() -> Setup:
        return published_setup(name, method)

    return Part(setup, _rules("helix" if method == "helix-milp" else method, in_flight, rate), rate)


def swarm_30b_part(name: str, in_flight: int | None = None, rate: float | None = None) -> Part:
    return Part(lambda: swarm_30b(name), _rules("swarm", in_flight, rate), rate)


def chain_part(
    chain: tuple[str, str, str, list[int], list[int] | None],
    scheduler: str,
    in_flight: int | None = None,
    rate: float | None = None,
) -> Part:
    return Part(lambda: chain_of(*chain), _rules(scheduler, in_flight, rate), rate)


def _rules(scheduler: str, in_flight: int | None, rate: float | None) -> Options:
    if scheduler == "helix":
        return artifact_offline() if rate is None else artifact_online(drain=True)
    return artifact_baseline(scheduler, in_flight, drain=rate is not None)


def chains(name: str, model: str, scheduler: str) -> list[tuple[str, str, str, list[int], list[int] | None]]:
    """The published separate pipelines: GPU type, layers and order of each."""
    if model == "30b":
        orders = {"T4": list(range(11, -1, -1))} if name == "geo24" else {}
        shapes = {"A100-40GB": [15] * 4, "L4": [7] * 4 + [8] * 4, "T4": [5] * 12}
        if name == "geo24" and scheduler != "helix":
            orders["L4"], shapes["L4"] = [4, 1, 5, 2, 0, 3, 7, 6], [8] * 4 + [7] * 4
    elif name == "hetero42":
        orders = {}
        shapes = {"A100-40GB": [20] * 4, "L4": [10] * 8, "2xL4": [20] * 4, "4xT4": [20] * 4}
    elif name == "geo24":
        t4 = [1, 9, 8, 5, 10, 2, 3, 7, 4, 0, 11, 6]
        orders = {"L4": list(range(7, -1, -1)), "T4": t4}
        six = {0, 4, 6, 11}
        shapes = {"A100-40GB": [20] * 4, "L4": [10] * 8, "T4": [6 if node in six else 7 for node in t4]}
    else:
        orders = {}
        shapes = {"A100-40GB": [20] * 4, "L4": [10] * 8, "T4": [6] * 4 + [7] * 8}
    return [(name, gpu, model, layers, orders.get(gpu)) for gpu, layers in shapes.items()]


def separate(name: str, model: str, scheduler: str, numbers: Sequence[float], online: bool) -> list[Part]:
    """A row of one chain a GPU type, with requests in flight or tokens/s for each; Helix feeds itself."""
    parts = []
    for chain, number in zip(chains(name, model, scheduler), numbers, strict=True):
        if online:
            parts.append(chain_part(chain, scheduler, rate=number))
        else:
            parts.append(chain_part(chain, scheduler, in_flight=None if scheduler == "helix" else int(number)))
    return parts


ROWS = (
    Row("single24 30B offline Helix", 339.6, separate("single24", "30b", "helix", (0, 0, 0), False)),
    Row("single24 30B offline Swarm", 151.6, [swarm_30b_part("single24", 50)]),
    Row("single24 30B offline separate", 309.0, separate("single24", "30b", "random", (30, 25, 25), False)),
    Row(
        "single24 30B online Helix",
        216.7,
        separate("single24", "30b", "helix", (600, 200, 170), True),
        (0.43, 2.95, 0.13, 0.70),
    ),
    Row("single24 30B online Swarm", 104.9, [swarm_30b_part("single24", rate=450)], (1.42, 2.28, 0.26, 0.47)),
    Row(
        "single24 30B online separate",
        189.8,
        separate("single24", "30b", "random", (500, 150, 150), True),
        (0.42, 2.99, 0.11, 0.57),
    ),
    Row("single24 70B offline Helix", 252.1, [published_part("single24", "helix-milp")]),
    Row("single24 70B offline Swarm", 124.7, [published_part("single24", "swarm", 180)]),
    Row("single24 70B offline separate", 124.3, separate("single24", "70b", "random", (18, 40, 3), False)),
    Row(
        "single24 70B online Helix",
        141.6,
        [published_part("single24", "helix-milp", rate=700)],
        (2.64, 4.41, 0.98, 3.19),
    ),
    Row("single24 70B online Swarm", 69.8, [published_part("single24", "swarm", rate=350)], (3.32, 5.01, 1.04, 2.51)),
    Row("geo24 30B offline Helix", 232.7, separate("geo24", "30b", "helix", (0, 0, 0), False)),
    Row("geo24 30B offline Swarm", 98.7, [swarm_30b_part("geo24", 60)]),
    Row("geo24 30B offline separate", 223.2, separate("geo24", "30b", "random", (35, 40, 40), False)),
    Row(
        "geo24 30B online Helix",
        183.5,
        separate("geo24", "30b", "helix", (560, 140, 140), True),
        (0.51, 4.41, 0.23, 0.83),
    ),
    Row("geo24 30B online Swarm", 82.1, [swarm_30b_part("geo24", rate=380)], (3.25, 7.32, 0.48, 1.12)),
    Row("geo24 70B offline Helix", 98.0, [published_part("geo24", "helix-milp")]),
    Row("geo24 70B offline Swarm", 51.9, [published_part("geo24", "swarm", 180)]),
    Row("geo24 70B offline separate", 61.9, separate("geo24", "70b", "random", (1, 60, 50), False)),
    Row("geo24 70B online Helix", 59.3, [published_part("geo24", "helix-milp", rate=320)], (5.79, 9.41, 0.93, 7.72)),
    Row("geo24 70B online Swarm", 31.0, [published_part("geo24", "swarm", rate=160)], (7.22, 14.83, 1.23, 6.50)),
    Row(
        "geo24 70B online separate",
        33.6,
        separate("geo24", "70b", "random", (1, 120, 60), True),
        (4.96, 15.82, 1.20, 5.01),
    ),
    Row("hetero42 70B offline Helix", 645.6, [published_part("hetero42", "helix-milp")]),
    Row("hetero42 70B offline Swarm", 473.2, [published_part("hetero42", "swarm", 500)]),
    Row("hetero42 70B offline separate", 219.3, separate("hetero42", "70b", "random", (1, 60, 35, 110), False)),
    Row("hetero42 70B online Helix", 459.8, [published_part("hetero42", "helix-milp", rate=2150)]),
    Row("hetero42 70B online Swarm", 309.6, [published_part("hetero42", "swarm", rate=1450)]),
    Row("hetero42 70B online separate", 140.2, separate("hetero42", "70b", "random", (1, 140, 160, 350), True)),
)

SCHEDULERS = (
    ("scheduling study Helix IWRR", 99.8, artifact_offline()),
    ("scheduling study random", 87.4, artifact_baseline("random", 180)),
    ("scheduling study shortest queue", 83.6, artifact_baseline("shortest-queue", 180)),
    ("scheduling study Swarm", 81.7, artifact_baseline("swarm", 180)),
)
SEEDS = (0, 1, 2, 3, 4)


def show(row: Row) -> None:
    began = time.perf_counter()
    outcomes = [part.run() for part in row.parts]
    decode = sum(outcome.decode_tokens_per_s for outcome in outcomes)
    line = f"{row.name:32} {row.published:7.1f} {decode:7.1f} {decode / row.published - 1:+7.1%}"
    if row.latencies is not None:
        first = np.concatenate([outcome.ttft_s for outcome in outcomes])
        gaps = np.concatenate([outcome.gaps_s for outcome in outcomes])
        ours = [float(np.percentile(values, percent)) for values in (first, gaps) for percent in (50, 95)]
        pairs = zip(row.latencies, ours, strict=True)
        line += "".join(f"  {theirs:5.2f} {mine:5.2f} {mine / theirs - 1:+4.0%}" for theirs, mine in pairs)
    else:
        line += " " * 72
    print(f"{line}  {time.perf_counter() - began:5.1f} s", flush=True)


def show_schedulers(pattern: str) -> None:
    """The scheduling study; whatever draws at random is the median of five seeds, with the least and the most."""
    for name, published, options in SCHEDULERS:
        if pattern not in name:
            continue
        seeds = SEEDS if options.scheduler in ("random", "shortest-queue") else SEEDS[:1]
        found = [Part(scheduling_study, options).run(seed).decode_tokens_per_s for seed in seeds]
        middle = statistics.median(found)
        spread = f"  from {min(found):.1f} to {max(found):.1f}" if len(found) > 1 else ""
        print(f"{name:32} {published:7.1f} {middle:7.1f} {middle / published - 1:+7.1%}{spread}", flush=True)


def show_all_ways(pattern: str) -> None:
    """Not published: the same placements with a maximum flow over every feasible hop."""
    for name in ("single24", "geo24", "hetero42"):
        if pattern in f"{name} all ways":
            outcome = Part(partial(all_ways, name), artifact_offline()).run()
            print(f"{name + ' Helix, all feasible hops':32} {'':7} {outcome.decode_tokens_per_s:7.1f}", flush=True)


def main() -> None:
    pattern = sys.argv[1] if len(sys.argv) > 1 else ""
    latencies = "".join(f"  {name:^18}" for name in ("prompt p50, s", "prompt p95", "decode p50", "decode p95"))
    print(f"{'decode tokens/s':32} {'theirs':>7} {'ours':>7} {'':7}{latencies}")
    for row in ROWS:
        if pattern in row.name:
            show(row)
    show_schedulers(pattern)
    show_all_ways(pattern)


if __name__ == "__main__":
    main()
