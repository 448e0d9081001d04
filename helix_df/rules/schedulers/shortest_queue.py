"""``shortest-queue``: the next node at which the fewest requests wait; among equals, one with an idle link."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from helix_df.graph.problem import COORDINATOR
from helix_df.rules.schedulers.api import HopByHop, View


class ShortestQueue(HopByHop):
    """Join the shortest queue, as seen at the moment of choice."""

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._random = Random(view.seed)

    def choose(self, tail: str, heads: Sequence[str], tokens: int) -> str:
        if COORDINATOR in heads:
            return COORDINATOR
        if len(heads) == 1:
            return heads[0]
        waiting = {head: self.view.waiting(head) for head in heads}
        shortest = min(waiting.values())
        shortest_ones = [head for head in heads if waiting[head] == shortest]
        return self._random.choice(self.idle_first(tail, shortest_ones))
