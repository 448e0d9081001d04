"""Annealing towards a target flow: what covering searches share, whatever they cover the layers with.

Owns when the target rises and falls. Doesn't know what is moved.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from helix_df.graph.capacities import Ints
from helix_df.solvers.annealing import anneal

FALL = 0.985
"""What the target is multiplied with while it can't be reached. Coming from above leaves the ranges well shaped."""

PATIENCE = 16
"""A target may take this share of all iterations before it falls."""

HEAT = 0.1
"""First temperature, as a share of the target."""

Saved = TypeVar("Saved")


@dataclass(frozen=True, slots=True)
class Cover:
    """Ranges that cover every layer with ``target`` tokens/s, crossings counted as wide as they must be."""

    target: float
    start: Ints
    count: Ints


class CoveringWalk(ABC, Generic[Saved]):
    """A walk (``annealing``) that climbs by what is missing to the target; when nothing is, the target rises."""

    target = 0.0
    best: Cover | None = None
    patience = 1

    def climb(self, iterations: int, chance: random.Random, stop: Callable[[], bool]) -> Cover | None:
        """The best cover found. While none is, the target falls, by ``FALL`` each ``PATIENCE``-th of the iterations."""
        self.best, self.patience = None, max(1, iterations // PATIENCE)
        anneal(self, iterations, chance, stop)
        return self.best

    @abstractmethod
    def aim(self, target: float) -> None:
        """Cover with so many tokens/s from now on."""

    @abstractmethod
    def weakest(self) -> float:
        """Tokens/s of the layer that is covered with least."""

    @abstractmethod
    def missing(self) -> float:
        """Tokens/s that are missing to the target, summed over layers."""

    @abstractmethod
    def found(self) -> Cover:
        """Where the walk is, as a cover."""

    @abstractmethod
    def change(self) -> None:
        """As ``Walk``."""

    @abstractmethod
    def save(self) -> Saved:
        """As ``Walk``."""

    @abstractmethod
    def restore(self, saved: Saved) -> None:
        """As ``Walk``."""

    def before(self, step: int, value: float) -> float:
        """Raise a target that is reached, lower one that isn't for long."""
        if -value <= 1e-9 * self.target:
            self.best = self.found()
            self.aim(max(self.target * 1.002, self.weakest() * 1.0005))
        elif self.best is None and step % self.patience == self.patience - 1:
            self.aim(self.target * FALL)
        else:
            return value
        return self.value()

    def heat(self) -> float:
        """As ``Walk``."""
        return HEAT * self.target

    def value(self) -> float:
        """As ``Walk``."""
        return -self.missing()

    def kept(self, value: float) -> None:
        """Nothing to remember: a cover is kept when its target is reached."""
