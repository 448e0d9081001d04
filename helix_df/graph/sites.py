"""Sites: groups of nodes with fast links among them, found in the links themselves.

Owns the grouping and good orders to visit sites in. Doesn't use the names of regions: what counts is what links carry.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, permutations

import numpy as np
from numpy.typing import NDArray

from helix_df.graph.capacities import Floats, Ints, link_matrix
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
    links = link_matrix(problem)[np.ix_(usable, usable)]
    speeds = np.unique(links[links > 0])
    ratios = speeds[1:] / speeds[:-1]
    slowest = 0.0
    if len(ratios) and ratios.max() >= SLOWER:
        slowest = float(speeds[int(ratios.argmax()) + 1])
    elif len(speeds):
        slowest = float(speeds[0])
    groups = _groups(links >= slowest) if slowest else [np.array([i]) for i in range(len(usable))]
    rates = np.zeros((len(groups), len(groups)))
    for a, first in enumerate(groups):
        for b, second in enumerate(groups):
            if a != b:
                rates[a, b] = np.quantile(links[np.ix_(first, second)], TYPICAL)
    return Sites(tuple(tuple(int(i) for i in usable[group]) for group in groups), rates)


def _groups(near: NDArray[np.bool_]) -> list[Ints]:
    group = np.full(len(near), -1)
    count = 0
    for first in range(len(near)):
        if group[first] >= 0:
            continue
        group[first] = count
        frontier = [first]
        while frontier:
            found = np.flatnonzero(near[frontier.pop()] & (group < 0))
            group[found] = count
            frontier += [int(i) for i in found]
        count += 1
    return [np.flatnonzero(group == g) for g in range(count)]


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
