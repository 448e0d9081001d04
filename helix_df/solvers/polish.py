"""Local search on the exact max flow: what covering can't see (single links, whole ranges) decides here.

Owns small moves of a placement and which are kept. Doesn't make placements from nothing.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np

from helix_df.graph.capacities import Ints
from helix_df.graph.judge import Judge

COVERED = 0.05
"""Weight of what layers are covered with beside the flow: it shows the way where no single move changes the flow."""


class Polish:
    """Simulated annealing from a placement; remembers the best. Deterministic for a seed unless stopped."""

    def __init__(self, judge: Judge, start: Ints, count: Ints, seed: int) -> None:
        self.judge = judge
        self.chance = random.Random(seed)
        self.start, self.count = start.copy(), count.copy()
        self.usable = [int(i) for i in np.flatnonzero(judge.most)]
        self.flow = judge.flow(self.start, self.count)
        self.best_flow = self.flow
        self.best = (self.start.copy(), self.count.copy())

    def run(self, steps: int, heat: float, bound: float, stop: Callable[[], bool]) -> float:
        """The best flow after ``steps`` moves, with temperatures from ``heat`` (share of the flow) down to 0."""
        value = self.flow + self._shape()
        for step in range(steps):
            if step % 16 == 0 and (stop() or self.best_flow >= bound):
                break
            kept = self.start.copy(), self.count.copy(), self.flow
            self._move()
            self.flow = self.judge.flow(self.start, self.count)
            changed = self.flow + self._shape()
            temperature = heat * self.best_flow * (1 - step / steps) ** 2 + 1e-9
            if changed >= value or self.chance.random() < math.exp((changed - value) / temperature):
                value = changed
                if self.flow > self.best_flow:
                    self.best_flow, self.best = self.flow, (self.start.copy(), self.count.copy())
            else:
                self.start, self.count, self.flow = kept
        return self.best_flow

    def _shape(self) -> float:
        """Mean over layers of what covers them, up to a little more than the best flow."""
        level = 1.1 * self.best_flow
        speed = np.minimum(self.judge.speed[np.arange(len(self.start)), self.count], level)
        change = np.zeros(self.judge.num_layers + 1)
        np.add.at(change, self.start, speed)
        np.add.at(change, self.start + self.count, -speed)
        return COVERED * float(np.minimum(np.cumsum(change)[:-1], level).mean())

    def _move(self) -> None:
        kind = self.chance.random()
        one = self.chance.choice(self.usable)
        other = self.chance.choice(self.usable)
        if kind < 0.35:
            self._swap(one, other)
        elif kind < 0.55:
            self._set(one, int(self.start[other]), int(self.count[other]))
        elif kind < 0.65:
            self._set(one, int(self.start[other] + self.count[other]), int(self.count[one]))
        elif kind < 0.8:
            self._set(one, int(self.start[one]) + self.chance.choice((-1, 1)), int(self.count[one]))
        elif kind < 0.97:
            longer = self.chance.choice((-1, 1))
            before = longer * self.chance.randint(0, 1)
            self._set(one, int(self.start[one]) - before, int(self.count[one]) + longer)
        else:
            length = self.chance.randint(0, int(self.judge.most[one]))
            self._set(one, self.chance.randint(0, self.judge.num_layers - length), length)
        if self.chance.random() < 0.3:
            self._move()

    def _swap(self, one: int, other: int) -> None:
        first, second = (int(self.start[one]), int(self.count[one])), (int(self.start[other]), int(self.count[other]))
        self._set(one, *second)
        self._set(other, *first)

    def _set(self, node: int, start: int, count: int) -> None:
        """Give a node a range, cut down to what fits on it and into the model."""
        count = max(0, min(count, int(self.judge.most[node]), self.judge.num_layers))
        self.start[node] = max(0, min(start, self.judge.num_layers - count))
        self.count[node] = count
