"""``random``: any next hop whose link is idle, else the one whose link is idle first."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from helix_df.simulator.schedulers.api import HopByHop, View


class AtRandom(HopByHop):
    """Uniformly random choices."""

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._random = Random(view.seed)

    def choose(self, tail: str, heads: Sequence[str], tokens: int) -> str:
        if len(heads) == 1:
            return heads[0]
        wait = {head: self.view.link_free_in_s(tail, head) for head in heads}
        least = min(wait.values())
        return self._random.choice([head for head in heads if wait[head] <= least])
