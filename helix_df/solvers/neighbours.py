"""Small moves of a placement, for searches that judge one placement after the other.

Owns the moves and what they respect: pinned nodes stay, required ones hold a layer, ranges fit on their nodes and into
the model. Doesn't judge.
"""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np

from helix_df.graph.capacities import Ints
from helix_df.solvers.objective import Objective


class Neighbours:
    """A placement on its way: ``start`` and ``count`` by node, changed by ``move``."""

    def __init__(self, objective: Objective, start: Ints, count: Ints, chance: random.Random) -> None:
        self.objective, self.judge = objective, objective.judge
        self.chance = chance
        self.start, self.count = objective.keep_nodes(start, count)
        self.usable = [int(i) for i in np.flatnonzero(self.judge.most) if i not in objective.fixed]

    def move(self) -> None:
        """Change a node or two, now and then more."""
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
            self.move()

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

    def permute(self) -> None:
        """Put the stretches between layers where nobody's range goes across into another order, all at once."""
        if self.objective.fixed:
            return
        used = self.count > 0
        starts, stops = self.start[used], (self.start + self.count)[used]
        layers = self.judge.num_layers
        across = [bool(((starts < layer) & (layer < stops)).any()) for layer in range(layers + 1)]
        cuts = [layer for layer in range(layers + 1) if not across[layer]]
        stretches = list(pairwise(cuts))
        self.chance.shuffle(stretches)
        position = 0
        moved = self.start.copy()
        for low, high in stretches:
            inside = used & (self.start >= low) & (self.start < high)
            moved[inside] = self.start[inside] - low + position
            position += high - low
        self.start = moved

    def shift(self) -> None:
        """Move the layer where some nodes stop and others start, for all of them at once."""
        edges = sorted({*self.start[self.count > 0].tolist()} - {0})
        if not edges:
            return
        edge, by = self.chance.choice(edges), self.chance.choice((-1, 1))
        for node in self.usable:
            first, length = int(self.start[node]), int(self.count[node])
            if length and first == edge:
                self._set(node, first + by, length - by)
            elif length and first + length == edge:
                self._set(node, first, length + by)

    def reorder(self) -> None:
        """Exchange two neighbouring stretches of layers with all nodes that lie inside one of them.

        What each node holds keeps its length, so only the order in which requests pass them changes.
        """
        edges = sorted({0, self.judge.num_layers, *(self.start[self.count > 0]).tolist()})
        if len(edges) < 3:
            return
        middle = self.chance.randrange(1, len(edges) - 1)
        low = edges[self.chance.randrange(max(0, middle - 4), middle)]
        high = edges[self.chance.randrange(middle + 1, min(len(edges), middle + 5))]
        cut = edges[middle]
        for node in self.usable:
            first, stop = int(self.start[node]), int(self.start[node] + self.count[node])
            if not self.count[node] or first < low or stop > high:
                continue
            if stop <= cut:
                self.start[node] = first + high - cut
            elif first >= cut:
                self.start[node] = first - (cut - low)
