"""Local search on the exact max flow: what covering can't see (single links, whole ranges) decides here.

Owns small moves of a placement and which are kept. Doesn't make placements from nothing.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np

from helix_df.graph.capacities import Ints
from helix_df.solvers.objective import Objective

COVERED = 0.05
"""Weight of what layers are covered with beside the flow: it shows the way where no single move changes the flow."""

LACKING = 3.0
"""Weight of the mean lack of KV cache against the flow, where a limit asks for some."""


class Polish:
    """Simulated annealing from a placement; remembers the best that keeps all limits. Deterministic unless stopped.

    ``best`` is ``None`` while no placement met keeps the limits.
    """

    def __init__(self, objective: Objective, start: Ints, count: Ints, seed: int) -> None:
        self.objective, self.judge = objective, objective.judge
        self.chance = random.Random(seed)
        self.start, self.count = objective.keep_nodes(start, count)
        self.usable = [int(i) for i in np.flatnonzero(self.judge.most) if i not in objective.fixed]
        self.level = 0.0
        self.best: tuple[Ints, Ints] | None = None
        self.best_flow = self.best_worth = 0.0
        self._weigh()

    def run(self, steps: int, heat: float, bound: float, stop: Callable[[], bool]) -> None:
        """Try ``steps`` moves, from temperature ``heat`` (share of the flow) down to 0, until one has ``bound``."""
        value = self._weigh()
        for step in range(steps) if self.usable else ():
            if step % 16 == 0 and (stop() or self.best_worth >= bound):
                break
            kept = self.start.copy(), self.count.copy()
            self._move()
            changed = self._weigh()
            temperature = heat * self.level * (1 - step / steps) ** 2 + 1e-9
            if changed >= value or self.chance.random() < math.exp((changed - value) / temperature):
                value = changed
            else:
                self.start, self.count = kept

    def _weigh(self) -> float:
        """What the search climbs: worth, and the shape that shows the way; keeps the best placement allowed."""
        flow = self.judge.flow(self.start, self.count)
        worth = flow - self.objective.cost(self.start, self.count)
        self.level = max(self.level, flow)
        if worth > self.best_worth and self.objective.admits(self.start, self.count):
            self.best, self.best_flow, self.best_worth = (self.start.copy(), self.count.copy()), flow, worth
        return worth + self._shape() - self._lacking_requests()

    def _lacking_requests(self) -> float:
        """What a placement loses in the search while KV cache for requests is missing on some layers."""
        wanted = self.judge.problem.limits.min_requests
        if not wanted:
            return 0.0
        fit = np.minimum(self.objective.covered_requests(self.start, self.count) / wanted, 1.0)
        return self.level * (LACKING * float(1 - fit.mean()) + float(1 - fit.min()))

    def _shape(self) -> float:
        """Mean over layers of what covers them, up to a little more than the best flow."""
        level = 1.1 * self.level
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
        if node in self.objective.fixed:
            return
        count = max(int(self.objective.least[node]), min(count, int(self.judge.most[node]), self.judge.num_layers))
        self.start[node] = max(0, min(start, self.judge.num_layers - count))
        self.count[node] = count
