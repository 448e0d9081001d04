"""Annealing on the estimate: where good placements may be, before anything is simulated.

Owns the chains and what is kept of them. Doesn't simulate.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from helix_df.graph.capacities import Ints
from helix_df.solvers.annealing import anneal
from helix_df.solvers.goodput.evaluator import Evaluator
from helix_df.solvers.goodput.placements import Ranges, Scored, arrays, different, ranges_of
from helix_df.solvers.neighbours import Neighbours

KEPT = 4
"""Placements that a chain hands over at most: the estimate isn't good enough to say which start is best."""

CHAIN = 3000
"""Steps of one annealing chain."""

HEAT = 0.05
"""Its first temperature, as a share of the best value."""


@dataclass(frozen=True, slots=True)
class Chain:
    """Anneal from a start for so many steps."""

    seed: int
    steps: int
    start: Ranges


def explored(evaluator: Evaluator, chain: Chain, stop: Callable[[], bool]) -> list[Scored]:
    """The best that a chain meets. Deterministic unless stopped."""
    near = Neighbours(evaluator.objective, *arrays(chain.start), random.Random(chain.seed))
    walk = EstimateWalk(evaluator, near)
    if near.usable:
        anneal(walk, chain.steps, near.chance, stop)
    best = heapq.nlargest(50 * KEPT, walk.seen.items(), key=lambda item: (item[1], item[0]))
    return different((Scored(value, ranges) for ranges, value in best), KEPT)


class EstimateWalk:
    """Climbs the estimate less what moving costs; remembers everything it keeps."""

    def __init__(self, evaluator: Evaluator, near: Neighbours) -> None:
        self.evaluator, self.near = evaluator, near
        self.seen: dict[Ranges, float] = {}
        self.best = 0.0

    def before(self, _step: int, value: float) -> float:
        return value

    def heat(self) -> float:
        return HEAT * self.best

    def save(self) -> tuple[Ints, Ints]:
        return self.near.start.copy(), self.near.count.copy()

    def change(self) -> None:
        change(self.near)

    def value(self) -> float:
        worth = self.evaluator.worth(self.near.start, self.near.count)
        if worth is None:
            return -math.inf
        self.best = max(self.best, worth)
        return worth

    def kept(self, value: float) -> None:
        self.seen[ranges_of(self.near.start, self.near.count)] = value

    def restore(self, saved: tuple[Ints, Ints]) -> None:
        self.near.start, self.near.count = saved


def change(near: Neighbours) -> None:
    """A small change: mostly a move of a node or two, now and then another order of stretches."""
    kind = near.chance.random()
    if kind < 0.15:
        near.reorder()
    elif kind < 0.35:
        near.shift()
    else:
        near.move()
