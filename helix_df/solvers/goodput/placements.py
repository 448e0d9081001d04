"""Placements as the search for goodput passes them around: small, hashable, with what is known of them.

Owns their form and what tells two of them apart. Doesn't know how they are judged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from helix_df.graph.capacities import Ints
from helix_df.graph.even_flow import CostPreset
from helix_df.plan.serving import ServingRules
from helix_df.solvers.goodput.racing import TokenCurve
from helix_df.spec.job import Limits

Ranges = tuple[tuple[int, int], ...]
"""A placement: (start, count) by node."""

DIFFERENT = 4
"""Starts and counts in which two placements must differ to count as two."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A placement, its generated tokens/s, estimated or simulated, and on arrivals the latencies in seconds.

    ``spread``: which of its maximum flows; ``rules``: to serve by, ``None`` for an estimate; ``curve``: of the first
    simulation, for others to be compared with; ``visits``: token visits to nodes that were simulated to find out.
    """

    score: float
    ranges: Ranges
    ttft_p95_s: float | None = None
    itl_p95_s: float | None = None
    curve: TokenCurve = ()
    spread: CostPreset = "any"
    visits: float = 0.0
    rules: ServingRules | None = None


def excess(one: Scored, limits: Limits) -> float:
    """By which share the worst limit on latency is missed; 0 when all are kept or unknown.

    A latency that isn't a number is that of requests which never came to a token: it misses any limit.
    """
    pairs = ((one.ttft_p95_s, limits.ttft_p95), (one.itl_p95_s, limits.itl_p95))
    missed = [
        math.inf if math.isnan(found) else found / limit - 1
        for found, limit in pairs
        if found is not None and limit is not None
    ]
    return max(0.0, *missed) if missed else 0.0


def arrays(ranges: Ranges) -> tuple[Ints, Ints]:
    """Start and count of a placement."""
    pairs = np.array(ranges, dtype=np.int64).reshape(-1, 2)
    return pairs[:, 0].copy(), pairs[:, 1].copy()


def ranges_of(start: Ints, count: Ints) -> Ranges:
    """The placement of ``arrays``; what a node that holds nothing would start at is 0."""
    return tuple((s, k) if k else (0, 0) for s, k in zip(start.tolist(), count.tolist(), strict=True))


def different(scored: Iterable[Scored], most: int) -> list[Scored]:
    """The first ``most`` that differ from each other in more than a detail."""
    chosen: list[Scored] = []
    for one in scored:
        if all(_distance(one.ranges, other.ranges) >= DIFFERENT for other in chosen):
            chosen.append(one)
            if len(chosen) == most:
                break
    return chosen


def _distance(one: Ranges, other: Ranges) -> int:
    return sum((a != c) + (b != d) for (a, b), (c, d) in zip(one, other, strict=True))
