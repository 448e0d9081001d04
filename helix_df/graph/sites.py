"""Sites: groups of nodes with fast links among them, found in the links themselves.

Owns the grouping and good orders to visit sites in. Doesn't use the names of regions: what counts is what links carry.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise, permutations

import numpy as np

from helix_df.graph.capacities import Floats, Ints
from helix_df.graph.link_classes import LinkClasses
from helix_df.graph.problem import Problem

SLOWER = 4.0
"""Links are of two kinds, inside sites and between them, if somewhere in order of speed one is this much faster."""

TYPICAL = 0.3
"""The quantile of the links between two sites that counts as what one of them carries."""

ALL_ORDERS = 8
"""Sites up to which every order is looked at."""


@dataclass(frozen=True, slots=True)
class Sites:
    """Positions of usable nodes by site, and what a typical link between two sites carries, in tokens/s."""

    members: tuple[tuple[int, ...], ...]
    rates: Floats


def find_sites(problem: Problem) -> Sites:
    """Connected groups over the faster kind of links; one group if all links are much alike."""
    usable = np.array([i for i, node in enumerate(problem.nodes) if node.max_layers], dtype=np.int64)
    links = LinkClasses(problem)
    rates, _ = links.among(usable)
    speeds = np.unique(rates[rates > 0])
    ratios = speeds[1:] / speeds[:-1]
    slowest = 0.0
    if len(ratios) and ratios.max() >= SLOWER:
        slowest = float(speeds[int(ratios.argmax()) + 1])
    elif len(speeds):
        slowest = float(speeds[0])
    groups = links.groups(usable, slowest) if slowest else [usable[[i]] for i in range(len(usable))]
    typical = np.zeros((len(groups), len(groups)))
    for a, first in enumerate(groups):
        for b, second in enumerate(groups):
            if a != b:
                typical[a, b] = _quantile(*links.among(first, second))
    return Sites(tuple(tuple(group.tolist()) for group in groups), typical)


def _quantile(values: Floats, counts: Ints) -> float:
    """The quantile ``TYPICAL`` of values that occur so often each, as ``np.quantile`` has it."""
    order = np.argsort(values, kind="stable")
    ends = np.cumsum(counts[order])
    place = TYPICAL * (int(ends[-1]) - 1)
    low, high = values[order][np.searchsorted(ends, [math.floor(place), math.ceil(place)], side="right")]
    return float(low + (high - low) * (place - math.floor(place)))


def orders(sites: Sites, limit: int) -> list[tuple[int, ...]]:
    """Orders in which each site has links to the next, those with the best worst crossing first; at most ``limit``."""
    count = len(sites.members)
    if count > ALL_ORDERS:
        return [_greedy_order(sites)]
    rates = sites.rates.tolist()
    ranked = []
    for order in permutations(range(count)):
        steps = sorted(rates[a][b] for a, b in pairwise(order))
        if not steps or steps[0] > 0:
            ranked.append(([-step for step in steps], order))
    return [order for _, order in sorted(ranked)[:limit]]


def _greedy_order(sites: Sites) -> tuple[int, ...]:
    """From the largest site always to the best linked one that is left."""
    left = set(range(len(sites.members)))
    here = max(left, key=lambda g: (len(sites.members[g]), -g))
    order = [here]
    left.remove(here)
    while left:
        here = max(left, key=lambda g: (sites.rates[order[-1], g], -g))
        order.append(here)
        left.remove(here)
    return tuple(order)
