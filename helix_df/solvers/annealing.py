"""Simulated annealing: the one loop of all searches that change something a little and keep it when it got better.

Owns when a change is kept. Doesn't know what is changed or what it is worth. Source: Kirkpatrick, Gelatt and Vecchi
(1983).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Protocol, TypeVar

LOOK = 16
"""Steps between looks at whether to stop."""

Saved = TypeVar("Saved")


class Walk(Protocol[Saved]):
    """Something that can be changed, weighed and put back."""

    def before(self, step: int, value: float) -> float:
        """Heard before every step, with the value of where the walk is: that value by what is wanted from now on."""
        ...

    def heat(self) -> float:
        """The temperature of the first step, in the unit of values."""
        ...

    def save(self) -> Saved:
        """What ``restore`` needs."""
        ...

    def change(self) -> None:
        """Change something at random."""
        ...

    def value(self) -> float:
        """What the walk climbs; ``-inf`` where it must not go."""
        ...

    def kept(self, value: float) -> None:
        """Heard of every change that is kept."""
        ...

    def restore(self, saved: Saved) -> None:
        """Undo the change."""
        ...


def anneal(walk: Walk[Saved], steps: int, chance: random.Random, stop: Callable[[], bool]) -> None:
    """Try ``steps`` changes, from the walk's temperature down to 0. Deterministic unless stopped.

    A change for the worse by ``d`` is kept with probability ``exp(−d / temperature)``.
    """
    value = walk.value()
    for step in range(steps):
        value = walk.before(step, value)
        if step % LOOK == 0 and stop():
            return
        saved = walk.save()
        walk.change()
        changed = walk.value()
        temperature = walk.heat() * (1 - step / steps) ** 2 + 1e-9
        if changed >= value or chance.random() < math.exp((changed - value) / temperature):
            value = changed
            walk.kept(value)
        else:
            walk.restore(saved)
