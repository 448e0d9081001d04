"""``swarm``: SWARM's stochastic wiring: interleaved round-robin by an exponential mean of each hop's time.

Source: SWARM Parallelism (Ryabinin et al., ICML 2023), appendix C. Each hop has a priority; the least is taken and
grows by the hop's mean time. A mean starts at 0.05 s, and each new time counts 0.8 against 0.2 of what was, as in the
Helix paper's comparison.
"""

from __future__ import annotations

from collections.abc import Sequence

from helix_df.rules.schedulers.api import HopByHop, View

FIRST_S = 0.05
SMOOTHING = 0.8


class Swarm(HopByHop):
    """Time-weighted turns."""

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._mean_s = {(tail, head): FIRST_S for tail, heads in view.adjacency.items() for head in heads}
        self._priority = dict(self._mean_s)

    def observe(self, tail: str, head: str, seconds: float, steps: int) -> None:
        before = self._mean_s[tail, head]
        self._mean_s[tail, head] = seconds + (before - seconds) * (1 - SMOOTHING) ** steps

    def choose(self, tail: str, heads: Sequence[str], tokens: int) -> str:
        chosen = min(heads, key=lambda head: self._priority[tail, head])
        self._priority[tail, chosen] += self._mean_s[tail, chosen]
        return chosen
