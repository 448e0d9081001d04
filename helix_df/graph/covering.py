"""One inequality that every placement's flow meets: what nodes add to all layers is no less than the layers need.

Owns its arithmetic, the search for the largest flow that meets it, and the cheap check that one flow doesn't. The
arguments that lead to it, with their proofs, are in ``bounds``. Doesn't know problems or links.
"""

from __future__ import annotations

import math

import numpy as np

from helix_df.graph.capacities import Floats

SLACK = 1e-12
"""What a search leaves to rounding, as a share of the terms: a flow that is reached exactly must never be cut off."""

PROVEN_SLACK = SLACK / 2
"""What an evaluation leaves to rounding. Sums of 2,000 terms are 2e-13 off at most; what is left between the two
slacks lets another machine, which adds in another order, prove what was found here."""


class Covering:
    """``Σ_i max_k [max(0, k − λ)·min(T_i(k)/F, 1) + a_i(k)] ≥ need``, whose left side never grows with ``F``.

    Args:
        capacity: tokens/s of node ``i`` with ``k`` layers at ``[i, k]``; 0 for none and for more than fit.
        need: the right side, free of ``F``.
        per_hop: ``λ ≥ 0``.
        extra: ``a_i(k)``, what node ``i`` adds with ``k`` layers whatever flows; none by default.
        scale: the sum of the right side's terms without their signs, to which rounding is in proportion.
    """

    def __init__(
        self,
        capacity: Floats,
        need: float,
        per_hop: float = 0.0,
        extra: Floats | None = None,
        scale: float | None = None,
    ) -> None:
        table = capacity if extra is None else np.concatenate([capacity, extra], axis=1)
        self._counts: Floats = np.zeros(0)
        if len(table):
            table, counts = np.unique(table, axis=0, return_counts=True)
            self._counts = counts.astype(np.float64)
        width = capacity.shape[1]
        self._rows = table[:, :width]
        self._added = table[:, width:] if extra is not None else 0.0
        self._held = np.arange(width) * (self._rows > 0) > 0
        self._counted = np.maximum(np.arange(width) - per_hop, 0.0)
        self._need = need
        self._rest = 0.0 if scale is None else scale - need
        self.all_nodes = float(capacity.max(axis=1, initial=0.0).sum())
        """Tokens/s of all nodes together: no more flows, since every token passes some node."""

    def rules_out(self, flow: float, slack: float) -> bool:
        """Whether ``flow`` tokens/s break the inequality by more than rounding; then so does every larger flow.

        0 stands for the smallest flow above 0.
        """
        with np.errstate(over="ignore"):
            share = np.minimum(self._rows / flow, 1.0) if flow > 0 else self._rows > 0
        best = np.where(self._held, share * self._counted + self._added, 0.0).max(axis=1, initial=0.0)
        return float(best @ self._counts) < self._need * (1 - slack) - slack * self._rest

    def largest(self) -> float:
        """The largest flow that meets the inequality, by bisection, rounded up; 0 when none does."""
        low, high = 0.0, self.all_nodes
        if self.rules_out(0.0, SLACK):
            return 0.0
        if not self.rules_out(high, SLACK):
            return high
        while high - low > 1e-12 * high and math.nextafter(low, high) < high:
            middle = (low + high) / 2
            low, high = (low, middle) if self.rules_out(middle, SLACK) else (middle, high)
        return high

    def evaluate(self, flow: float) -> float:
        """The bound that ``flow`` proves: itself where it is ruled out, else what all nodes serve together."""
        if 0 <= flow < self.all_nodes and self.rules_out(flow, PROVEN_SLACK):
            return flow
        return self.all_nodes
