"""``random``: any next hop whose link is idle, else the one whose link is idle first."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from helix_df.rules.schedulers.api import HopByHop, View


class AtRandom(HopByHop):
    """Uniformly random choices."""

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._random = Random(view.seed)

    def choose(self, tail: str, heads: Sequence[str], tokens: int) -> str:
        return self._random.choice(self.idle_first(tail, heads))
