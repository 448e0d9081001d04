"""Local search on the exact max flow: what covering can't see (single links, whole ranges) decides here.

Owns which moves are kept. Doesn't know what moves there are (``neighbours``) or make placements from nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np

from helix_df.graph.capacities import Ints
from helix_df.solvers.annealing import anneal
from helix_df.solvers.neighbours import Neighbours
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
        self.near = Neighbours(objective, start, count, self.chance)
        self.level = 0.0
        self.best: tuple[Ints, Ints] | None = None
        self.best_flow = self.best_worth = 0.0
        self.first_heat = 0.0
        self.value()

    def run(self, steps: int, heat: float, bound: float, stop: Callable[[], bool]) -> None:
        """Try ``steps`` moves, from temperature ``heat`` (share of the flow) down to 0, until one has ``bound``."""
        self.first_heat = heat
        if self.near.usable:
            anneal(self, steps, self.chance, lambda: stop() or self.best_worth >= bound)

    def before(self, _step: int, value: float) -> float:
        """As ``Walk``, like all methods up to ``value``."""
        return value

    def heat(self) -> float:
        return self.first_heat * self.level

    def save(self) -> tuple[Ints, Ints]:
        return self.near.start.copy(), self.near.count.copy()

    def change(self) -> None:
        self.near.move()

    def kept(self, value: float) -> None:
        """Nothing to remember: ``value`` keeps the best."""

    def restore(self, saved: tuple[Ints, Ints]) -> None:
        self.near.start, self.near.count = saved

    def value(self) -> float:
        """What the search climbs: worth, and the shape that shows the way; keeps the best placement allowed."""
        start, count = self.near.start, self.near.count
        flow = self.judge.flow(start, count)
        worth = flow - self.objective.cost(start, count)
        self.level = max(self.level, flow)
        if worth > self.best_worth and self.objective.admits(start, count):
            self.best, self.best_flow, self.best_worth = (start.copy(), count.copy()), flow, worth
        return worth + self._shape() - self._lacking_requests()

    def _lacking_requests(self) -> float:
        """What a placement loses in the search while KV cache for requests is missing on some layers."""
        wanted = self.judge.problem.limits.min_requests
        if not wanted:
            return 0.0
        fit = np.minimum(self.objective.covered_requests(self.near.start, self.near.count) / wanted, 1.0)
        return self.level * (LACKING * float(1 - fit.mean()) + float(1 - fit.min()))

    def _shape(self) -> float:
        """Mean over layers of what covers them, up to a little more than the best flow."""
        level = 1.1 * self.level
        start, count = self.near.start, self.near.count
        speed = np.minimum(self.judge.capacity[np.arange(len(start)), count], level)
        change = np.zeros(self.judge.num_layers + 1)
        np.add.at(change, start, speed)
        np.add.at(change, start + count, -speed)
        return COVERED * float(np.minimum(np.cumsum(change)[:-1], level).mean())
