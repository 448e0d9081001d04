"""Covering the layers by aligned stages, whose nodes all hold the same layers, as many as a limit on hops allows.

Owns the local search for the boundaries between stages and which node is in which. A stage's capacity is the sum of its
nodes', so the flow is that of the weakest stage where links don't bind; what links do is for the max flow to judge.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np

from helix_df.graph.capacities import Floats, Ints
from helix_df.solvers.covering_walk import Cover, CoveringWalk
from helix_df.solvers.objective import Objective

OUT = -1
"""The stage of a node that holds nothing."""


class AlignedStagesSearch(CoveringWalk[tuple[Ints, Ints]]):
    """Ruin and recreate over stages: a few nodes leave theirs, each joins again where it fills most.

    The objective is the sum over layers of what is missing to the target; when nothing is, the target rises.
    """

    def __init__(self, objective: Objective, stages: int, seed: int) -> None:
        self.objective, self.judge = objective, objective.judge
        self.chance = random.Random(seed)
        layers = self.judge.num_layers
        self.boundaries = np.array([round(layers * r / stages) for r in range(stages + 1)], dtype=np.int64)
        self.free = [int(i) for i in np.flatnonzero(self.judge.most) if i not in objective.fixed]
        self.stage = np.full(len(self.judge.most), OUT, dtype=np.int64)

    def run(self, target: float, iterations: int, stop: Callable[[], bool]) -> Cover | None:
        """The best placement found and the target it serves, or ``None``. Deterministic unless stopped."""
        self.target = target
        for node in sorted(self.free, key=lambda i: -float(self.judge.capacity[i].max())):
            self._join(node)
        return self.climb(iterations, self.chance, stop)

    def aim(self, target: float) -> None:
        self.target = target

    def save(self) -> tuple[Ints, Ints]:
        return self.boundaries.copy(), self.stage.copy()

    def restore(self, saved: tuple[Ints, Ints]) -> None:
        self.boundaries, self.stage = saved

    def _lengths(self) -> Ints:
        return np.diff(self.boundaries)

    def _speeds(self, node: int, lengths: Ints) -> Floats:
        """Tokens/s of a node on each stage; 0 where it doesn't fit."""
        row = self.judge.capacity[node]
        return np.where(lengths <= self.judge.most[node], row[np.minimum(lengths, len(row) - 1)], 0.0)

    def _covered(self) -> tuple[Floats, Floats]:
        """Tokens/s and requests on each stage."""
        lengths = self._lengths()
        on = np.flatnonzero(self.stage >= 0)
        stages = self.stage[on]
        held = lengths[stages]
        covered, requests = np.zeros(len(lengths)), np.zeros(len(lengths))
        np.add.at(covered, stages, self.judge.capacity[on, held])
        if self.objective.requests is not None:
            np.add.at(requests, stages, self.objective.requests[on, held])
        return covered, requests

    def weakest(self) -> float:
        return float(self._covered()[0].min())

    def _lack(self) -> tuple[Floats, Floats]:
        """What each stage misses to the target, and of requests in the same unit."""
        covered, requests = self._covered()
        wanted = self.judge.problem.limits.min_requests
        lack = np.maximum(1 - requests / wanted, 0.0) if wanted else np.zeros(len(covered))
        return np.maximum(self.target - covered, 0.0), lack * self.target

    def missing(self) -> float:
        tokens, requests = self._lack()
        return float((self._lengths() * (tokens + requests)).sum())

    def _join(self, node: int) -> None:
        """Put a node on the stage where it fills most."""
        lengths = self._lengths()
        speeds = self._speeds(node, lengths)
        if not (speeds > 0).any():
            self.stage[node] = OUT
            return
        tokens, lack = self._lack()
        gains = lengths * np.minimum(speeds, tokens)
        wanted = self.judge.problem.limits.min_requests
        if self.objective.requests is not None:
            row = self.objective.requests[node]
            fit = row[np.minimum(lengths, len(row) - 1)] * self.target / wanted
            gains = gains + lengths * np.minimum(fit, lack)
        self.stage[node] = int(np.where(speeds > 0, gains, -1.0).argmax())

    def change(self) -> None:
        move = len(self.boundaries) > 2 and self.chance.random() < 0.15
        chosen = self._move_boundary() if move else self._some()
        self.stage[chosen] = OUT
        self.chance.shuffle(chosen)
        for node in chosen:
            self._join(node)

    def _some(self) -> list[int]:
        """A few nodes, half the time from a stage that has more than it needs."""
        size = min(self.chance.randint(1, 4), len(self.free))
        if self.chance.random() < 0.5:
            rich = int(self._covered()[0].argmax())
            there = [node for node in self.free if self.stage[node] == rich]
            return self.chance.sample(there, min(size, len(there)))
        return self.chance.sample(self.free, size)

    def _move_boundary(self) -> list[int]:
        """Move the layer where one stage ends and the next begins; the nodes on both leave."""
        place = self.chance.randrange(1, len(self.boundaries) - 1)
        moved = int(self.boundaries[place]) + self.chance.choice((-2, -1, 1, 2))
        if not self.boundaries[place - 1] < moved < self.boundaries[place + 1]:
            return []
        self.boundaries[place] = moved
        there = [node for node in self.free if self.stage[node] in (place - 1, place)]
        if len(there) > 24:
            lengths = self._lengths()
            tight = [node for node in there if lengths[self.stage[node]] > self.judge.most[node]]
            return list(dict.fromkeys([*tight, *self.chance.sample(there, 12)]))
        return there

    def found(self) -> Cover:
        on = self.stage >= 0
        start = np.where(on, self.boundaries[:-1][self.stage], 0)
        count = np.where(on, self._lengths()[self.stage], 0)
        return Cover(self.target, *self.objective.keep_nodes(start, count))
