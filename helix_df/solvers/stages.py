"""Packing few nodes into stages: groups of nodes that hold the same layers, in a row through the sites.

Owns an exact search over stages for sites with few nodes and types, which local search finds hard because nothing may
be wasted. Its placements need no partial inference. Doesn't know the max flow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement

import numpy as np

from helix_df.graph.capacities import Ints
from helix_df.graph.judge import Judge
from helix_df.graph.sites import Sites

WIDEST = 4
"""Most nodes that share a stage."""

MOST_STATES = 4000
"""Numbers of nodes left, by type, up to which a site is packed."""

LEVELS = 96
"""Flows between the best known and the bound that are tried, by bisection."""

Counts = tuple[int, ...]
Stage = tuple[int, Counts]
"""Layers, and how many nodes of each type hold them."""


class SitePacker:
    """The most layers that a site's nodes can hold in stages that each serve a target flow."""

    def __init__(self, judge: Judge, nodes: Sequence[int]) -> None:
        by_row: dict[tuple[float, ...], list[int]] = {}
        for node in nodes:
            by_row.setdefault(tuple(judge.capacity[node, : int(judge.most[node]) + 1].tolist()), []).append(node)
        self.tables = list(by_row)
        self.members = list(by_row.values())
        self.have: Counts = tuple(len(members) for members in self.members)
        self._packed: dict[tuple[float, int, int], tuple[Stage, ...]] = {}
        self._stages: dict[tuple[float, float], list[Stage]] = {}
        self._rest: dict[tuple[float, Counts], tuple[int, tuple[Stage, ...]]] = {}

    @property
    def states(self) -> int:
        """How many subsets of nodes, by type, there are."""
        return math.prod(count + 1 for count in self.have)

    def pack(self, target: float, receivers: int, senders: int) -> tuple[Stage, ...]:
        """Stages in order; in the first each node counts with ``target/receivers`` at most, in the last likewise."""
        key = (target, receivers, senders)
        if key not in self._packed:
            self._packed[key] = self._best(target, receivers, senders)
        return self._packed[key]

    def _best(self, target: float, receivers: int, senders: int) -> tuple[Stage, ...]:
        if receivers == senders == 1:
            return self._fill(target, self.have)[1]
        nothing: list[Stage] = [(0, (0,) * len(self.have))]
        entries = self._compositions(target, target / receivers) if receivers > 1 else nothing
        exits = self._compositions(target, target / senders) if senders > 1 else nothing
        best, found = 0, ()
        for entry in entries:
            left = _minus(self.have, entry[1])
            for leave in exits if left is not None else ():
                rest = _minus(left, leave[1]) if left is not None else None
                if rest is None:
                    continue
                layers, middle = self._fill(target, rest)
                if layers + entry[0] + leave[0] > best:
                    best = layers + entry[0] + leave[0]
                    found = tuple(stage for stage in (entry, *middle, leave) if stage[0])  # type: ignore[assignment]
        return found

    def _fill(self, target: float, left: Counts) -> tuple[int, tuple[Stage, ...]]:
        """The most layers that the nodes left can hold, by trying every next stage."""
        key = (target, left)
        if key not in self._rest:
            best: tuple[int, tuple[Stage, ...]] = (0, ())
            for stage in self._compositions(target, target):
                rest = _minus(left, stage[1])
                if rest is not None:
                    layers, more = self._fill(target, rest)
                    if layers + stage[0] > best[0]:
                        best = (layers + stage[0], (stage, *more))
            self._rest[key] = best
        return self._rest[key]

    def _compositions(self, target: float, cap: float) -> list[Stage]:
        """Stages that serve the target when a node counts with at most ``cap``; none could do without a node."""
        if (target, cap) not in self._stages:
            longest: dict[Counts, int] = {}
            for size in range(1, WIDEST + 1):
                for chosen in combinations_with_replacement(range(len(self.have)), size):
                    counts = tuple(chosen.count(t) for t in range(len(self.have)))
                    layers = self._layers(counts, target, cap) if _minus(self.have, counts) is not None else 0
                    smaller = [longest.get(tuple(c - (t == u) for u, c in enumerate(counts)), 0) for t in set(chosen)]
                    if layers > max(smaller):
                        longest[counts] = layers
            self._stages[target, cap] = [(layers, counts) for counts, layers in longest.items()]
        return self._stages[target, cap]

    def _layers(self, counts: Counts, target: float, cap: float) -> int:
        most = min(len(table) - 1 for table, count in zip(self.tables, counts, strict=True) if count)
        for layers in range(most, 0, -1):
            served = sum(
                min(table[layers], cap) * count for table, count in zip(self.tables, counts, strict=True) if count
            )
            if served >= target * (1 - 1e-12):
                return layers
        return 0


def _minus(have: Counts, used: Counts) -> Counts | None:
    left = tuple(a - b for a, b in zip(have, used, strict=True))
    return left if min(left, default=0) >= 0 else None


class StagePacking:
    """Stages through all sites in a given order, with every way to make the crossings wide enough."""

    def __init__(self, judge: Judge, sites: Sites) -> None:
        self.judge = judge
        self.sites = sites
        self.packers = [SitePacker(judge, site) for site in sites.members]

    @property
    def small(self) -> bool:
        """Whether there are few enough ways to pack."""
        return all(packer.states <= MOST_STATES for packer in self.packers)

    def best(self, order: Sequence[int], least: float, most: float) -> tuple[Ints, Ints] | None:
        """The placement with the largest target between two flows (tokens/s), by bisection over ``LEVELS`` of them."""
        low, high, found = 0, LEVELS, None
        while high - low > 1:
            middle = (low + high) // 2
            stages = self._stages(order, least + (most - least) * middle / LEVELS)
            if stages is None:
                high = middle
            else:
                low, found = middle, stages
        return self._lay_out(order, found) if found is not None else None

    def _stages(self, order: Sequence[int], target: float) -> list[tuple[Stage, ...]] | None:
        """Stages by site that hold all layers: the longest, for every split of each crossing, one site at a time."""
        longest: dict[int, tuple[int, list[tuple[Stage, ...]]]] = {1: (0, [])}
        for place, g in enumerate(order):
            last = place == len(order) - 1
            rate = 0.0 if last else float(self.sites.rates[g, order[place + 1]])
            splits = [(1, 1)] if last else list(_splits(target / rate)) if rate > 0 else []
            following: dict[int, tuple[int, list[tuple[Stage, ...]]]] = {}
            for receivers, (layers, before) in longest.items():
                for senders, next_receivers in splits:
                    stages = self.packers[g].pack(target, receivers, senders)
                    total = layers + sum(stage[0] for stage in stages)
                    if stages and total > following.get(next_receivers, (0, []))[0]:
                        following[next_receivers] = (total, [*before, stages])
            longest = following
        best = max(longest.values(), key=lambda entry: entry[0], default=(0, []))
        return best[1] if best[0] >= self.judge.num_layers else None

    def _lay_out(self, order: Sequence[int], by_site: Sequence[tuple[Stage, ...]]) -> tuple[Ints, Ints]:
        start = np.zeros(len(self.judge.most), dtype=np.int64)
        count = np.zeros_like(start)
        surplus = sum(stage[0] for stages in by_site for stage in stages) - self.judge.num_layers
        position = 0
        for g, stages in zip(order, by_site, strict=True):
            left = [list(members) for members in self.packers[g].members]
            for layers, counts in stages:
                cut = min(surplus, layers - 1)
                surplus -= cut
                for kind, number in enumerate(counts):
                    for _ in range(number):
                        node = left[kind].pop(0)
                        start[node], count[node] = position, layers - cut
                position += layers - cut
        count = np.minimum(count, np.maximum(self.judge.num_layers - start, 0))
        return start, count


def _splits(pairs: float) -> Iterator[tuple[int, int]]:
    """Senders and receivers, as few as give so many pairs, none wider than a stage."""
    for senders in range(1, WIDEST + 1):
        receivers = max(1, math.ceil(pairs / senders - 1e-9))
        if receivers <= WIDEST:
            yield senders, receivers
            if receivers == 1:
                return
