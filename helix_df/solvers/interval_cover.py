"""Covering the line of layers: local search for ranges whose capacities add up to a target on every layer.

Owns the search for one line of sites, each with a stretch of layers of its own that overlaps the next one's a little.
Knows nothing of single links: crossings between sites are respected by making their ends wide
(``IntervalCoverSearch``). What a placement is worth is for the max flow to judge.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from helix_df.graph.capacities import Floats, Ints
from helix_df.graph.judge import Judge
from helix_df.solvers.covering_walk import Cover, CoveringWalk
from helix_df.solvers.objective import Objective


@dataclass(frozen=True, slots=True)
class SitePath:
    """Sites in the order in which requests visit them, as positions of nodes.

    ``crossings[g]`` is what a typical link from site ``g`` to the next carries, in tokens/s. ``skews[g]`` says who is
    wide where they meet: 1 many senders and few receivers, -1 the opposite, 0 both alike. ``overlap`` layers before the
    point where two sites meet may be held by both; 0 wastes up to a layer a site, 1 crosses in two steps.
    """

    sites: tuple[tuple[int, ...], ...]
    crossings: tuple[float, ...] = ()
    skews: tuple[float, ...] = ()
    overlap: int = 0


SavedCover = tuple[Ints, Ints, Floats, Floats, Floats, list[int]]
"""What a change may spoil: start, count, counted, covered, fitting and boundaries."""


_NONE: Floats = np.zeros(0)


def site_layers(judge: Judge, nodes: tuple[int, ...], target: float) -> float:
    """Layers that nodes can hold at most, each counted with ``max_k k·min(T(k), F)/F`` (see ``covering_bound``)."""
    speed = judge.capacity[list(nodes)]
    counted = np.minimum(speed, target) * np.arange(speed.shape[1])
    return float(counted.max(axis=1).sum() / target)


class IntervalCoverSearch(CoveringWalk[SavedCover]):
    """Ruin and recreate: take a few neighbouring nodes off the line and put each back where it fills most.

    The objective is the sum over layers of what is missing to the target; when nothing is, the target rises. Between
    two sites whose links carry ``c`` each, flow ``F`` needs ``b·b' ≥ F/c`` pairs of senders and receivers. A node that
    sends there counts with at most ``F/b`` and one that receives with at most ``F/b'``, so that at least ``b`` and
    ``b'`` of them must share the work; then ``u_i·v_j/F ≤ F/(b·b') ≤ c`` routes all of it.
    """

    def __init__(self, objective: Objective, path: SitePath, seed: int) -> None:
        # Takes half a second to import, and many plans need no search.
        from helix_df.solvers.window_kernel import best_window

        self.best_window = best_window
        self.objective, self.judge = objective, objective.judge
        judge = self.judge
        self.path = path
        self.chance = random.Random(seed)
        self.noise = np.random.default_rng(seed)
        self.nodes = np.array([node for site in path.sites for node in site], dtype=np.int64)
        self.site = np.array([g for g, site in enumerate(path.sites) for _ in site], dtype=np.int64)
        self.start = np.zeros(len(self.nodes), dtype=np.int64)
        self.count = np.zeros_like(self.start)
        self.counted = np.zeros(len(self.nodes))
        self.covered = np.zeros(judge.num_layers)
        wanted = judge.problem.limits.min_requests
        self.fit = None if objective.requests is None else objective.requests / wanted
        """Share of the requests a limit asks for that fits on node ``i`` beside ``k`` layers."""
        self.fitting = np.zeros(judge.num_layers)
        self.boundaries: list[int] = []
        self.senders: list[int] = []
        self.receivers: list[int] = []

    def run(self, target: float, iterations: int, stop: Callable[[], bool]) -> Cover | None:
        """The best covering found; ``None`` if there is none. Deterministic unless stopped.

        While nothing is found the target falls, by ``FALL`` each ``PATIENCE``-th of the iterations.
        """
        self.boundaries = self._even_boundaries(target)
        self.aim(target)
        fastest_first = sorted(range(len(self.nodes)), key=lambda p: -float(self.judge.capacity[self.nodes[p]].max()))
        for position in fastest_first:
            self._insert(position)
        return self.climb(iterations, self.chance, stop)

    def _even_boundaries(self, target: float) -> list[int]:
        """Where stretches meet, in proportion to what the sites can hold."""
        layers = self.judge.num_layers
        weights = [site_layers(self.judge, site, target) for site in self.path.sites]
        total, so_far = sum(weights), 0.0
        boundaries: list[int] = []
        for g, weight in enumerate(weights[:-1]):
            so_far += weight
            lowest = boundaries[-1] + 1 if boundaries else 1
            boundaries.append(min(max(round(layers * so_far / total), lowest), layers - len(weights) + 1 + g))
        return boundaries

    def aim(self, target: float) -> None:
        self.target = target
        self.senders, self.receivers = [], []
        for rate, skew in zip(self.path.crossings, self.path.skews, strict=True):
            # With an overlap a part α crosses a layer earlier: pairs shrink with α², flow with α. The worst is α = ½.
            pairs = max(1.0, target * (1 + self.path.overlap) / rate)
            senders = max(1, math.ceil(pairs ** (0.5 + skew / 2) - 1e-9))
            self.senders.append(senders)
            self.receivers.append(max(1, math.ceil(pairs / senders - 1e-9)))
        self.covered[:] = 0.0
        self.fitting[:] = 0.0
        for p in np.flatnonzero(self.count):
            self._put(int(p), int(self.start[p]), int(self.count[p]))

    def _stretch(self, site: int) -> tuple[int, int]:
        layers = self.judge.num_layers
        begin = 0 if site == 0 else max(0, self.boundaries[site - 1] - self.path.overlap)
        end = layers if site == len(self.boundaries) else self.boundaries[site]
        return begin, end

    def _shares(self, site: int) -> tuple[tuple[int, float], tuple[int, float]]:
        """For ranges that begin up to, and that end from, a layer: the most they count with, as part of a crossing."""
        entry, leave = (-1, self.target), (self.judge.num_layers + 1, self.target)
        if site > 0:
            entry = (self.boundaries[site - 1], self.target / self.receivers[site - 1])
        if site < len(self.boundaries):
            leave = (self.boundaries[site] - self.path.overlap, self.target / self.senders[site])
        return entry, leave

    def _put(self, p: int, start: int, count: int) -> None:
        self.start[p], self.count[p] = start, count
        (enters, entry), (leaves, leave) = self._shares(int(self.site[p]))
        cap = min(entry if start <= enters else self.target, leave if start + count >= leaves else self.target)
        self.counted[p] = min(float(self.judge.capacity[self.nodes[p], count]), cap)
        self.covered[start : start + count] += self.counted[p]
        if self.fit is not None:
            self.fitting[start : start + count] += self.fit[self.nodes[p], count]

    def _remove(self, p: int) -> None:
        held = slice(self.start[p], self.start[p] + self.count[p])
        self.covered[held] -= self.counted[p]
        if self.fit is not None:
            self.fitting[held] -= self.fit[self.nodes[p], self.count[p]]
        self.count[p] = 0

    def _insert(self, p: int) -> None:
        """Put a node where it fills most of what is missing."""
        site, node = int(self.site[p]), int(self.nodes[p])
        if node in self.objective.fixed:
            self._put(p, *self.objective.fixed[node])
            return
        begin, end = self._stretch(site)
        most = min(int(self.judge.most[node]), end - begin)
        if most == 0:
            return
        missing = np.maximum(self.target - self.covered[begin:end], 0.0)
        (enters, entry), (leaves, leave) = self._shares(site)
        # Fits are weighed like tokens/s, so that all of what is wanted is as much as the target.
        lacking, fit = _NONE, _NONE
        if self.fit is not None:
            lacking = self.target * np.maximum(1.0 - self.fitting[begin:end], 0.0)
            fit = self.target * self.fit[node, 1 : most + 1]
        speed = self.judge.capacity[node, 1 : most + 1]
        start, count = self.best_window(
            missing, speed, enters - begin, float(entry), leaves - begin, float(leave), lacking, fit
        )
        self._put(p, begin + start, count)

    def weakest(self) -> float:
        return float(self.covered.min())

    def missing(self) -> float:
        missing = float(np.maximum(self.target - self.covered, 0.0).sum())
        if self.fit is None:
            return missing
        return missing + self.target * float(np.maximum(1.0 - self.fitting, 0.0).sum())

    def change(self) -> None:
        if self.boundaries and self.chance.random() < 0.08:
            chosen = self._shift()
        elif self.chance.random() < 0.65:
            chosen = self._neighbours()
        else:
            chosen = self.chance.sample(range(len(self.nodes)), min(self.chance.randint(2, 5), len(self.nodes)))
        for p in chosen:
            self._remove(p)
        self.chance.shuffle(chosen)
        for p in chosen:
            self._insert(p)

    def _neighbours(self) -> list[int]:
        """A few nodes around a layer, more often around one that misses something."""
        layers = self.judge.num_layers
        centre = self.chance.random() * layers
        missing = np.maximum(self.target - self.covered, 0.0)
        if missing.sum() > 0 and self.chance.random() < 0.5:
            centre = float(self.chance.choices(range(layers), weights=missing.tolist())[0])
        distance = np.abs(self.start + self.count / 2 - centre) + 4 * self.noise.random(len(self.nodes))
        size = min(self.chance.randint(2, 5), len(self.nodes))
        return [int(p) for p in np.argpartition(distance, size - 1)[:size]]

    def _shift(self) -> list[int]:
        """Move the point where two sites meet by a layer; the nodes there must find new places."""
        g = self.chance.randrange(len(self.boundaries))
        old = self.boundaries[g]
        new = old + self.chance.choice((-1, 1))
        low = self.boundaries[g - 1] if g else 0
        high = self.boundaries[g + 1] if g + 1 < len(self.boundaries) else self.judge.num_layers
        if not low < new < high:
            return []
        stop = self.start + self.count
        there = ((self.site == g) & (stop >= min(old, new))) | ((self.site == g + 1) & (self.start <= max(old, new)))
        chosen = [int(p) for p in np.flatnonzero(there)]
        for p in chosen:
            self._remove(p)
        self.boundaries[g] = new
        return chosen

    def found(self) -> Cover:
        start = np.zeros(len(self.judge.most), dtype=np.int64)
        count = np.zeros_like(start)
        start[self.nodes], count[self.nodes] = self.start, self.count
        return Cover(self.target, start, count)

    def save(self) -> SavedCover:
        counted, covered, fitting = self.counted.copy(), self.covered.copy(), self.fitting.copy()
        return self.start.copy(), self.count.copy(), counted, covered, fitting, list(self.boundaries)

    def restore(self, saved: SavedCover) -> None:
        self.start, self.count, self.counted, self.covered, self.fitting, self.boundaries = saved
