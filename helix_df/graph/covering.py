"""One inequality that every placement's flow meets: what nodes add to all layers is no less than the layers need.

Owns its arithmetic, the search for the largest flow that meets it, and the cheap check that one flow doesn't. The
arguments that lead to it, with their proofs, are in ``bounds``. Doesn't know problems or links.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from helix_df.graph.capacities import Floats

SLACK = 1e-12
"""What a search leaves to rounding, as a share of the terms: a flow that is reached exactly must never be cut off."""

PROVEN_SLACK = SLACK / 2
"""What an evaluation leaves to rounding. Sums of 2,000 terms are 2e-13 off at most; what is left between the two
slacks lets another machine, which adds in another order, prove what was found here."""


@dataclass(frozen=True, slots=True)
class NodeKinds:
    """Nodes that are alike, counted once: fleets have many nodes, and few kinds of them.

    Args:
        capacity: tokens/s of a node of kind ``i`` with ``k`` layers at ``[i, k]``; 0 for none and for more than fit.
        extra: ``a_i(k)``, what it adds with ``k`` layers whatever flows, in any unit; ``None`` for nothing.
        counts: how many nodes are of each kind.
    """

    capacity: Floats
    extra: Floats | None
    counts: Floats


def kinds_of(capacity: Floats, extra: Floats | None = None) -> NodeKinds:
    """The kinds of nodes whose tokens/s, and what they add, are the rows of these tables."""
    table = capacity if extra is None else np.concatenate([capacity, extra], axis=1)
    number: dict[bytes, int] = {}
    kind_of = [number.setdefault(row.tobytes(), len(number)) for row in table]
    first = np.unique(kind_of, return_index=True)[1] if kind_of else np.zeros(0, dtype=np.intp)
    # In an order of their own, so that sums come out the same however nodes are ordered.
    rows, place = np.unique(table[first], axis=0, return_inverse=True)
    counts = np.bincount(place.reshape(-1)[kind_of], minlength=len(rows)).astype(np.float64)
    width = capacity.shape[1]
    return NodeKinds(rows[:, :width], None if extra is None else rows[:, width:], counts)


class Covering:
    """``Σ_i max_k [max(0, k − λ)·min(T_i(k)/F, 1) + μ·a_i(k)] ≥ need``, whose left side never grows with ``F``.

    Args:
        kinds: ``T_i(k)`` and ``a_i(k)`` of all nodes ``i``.
        need: the right side, free of ``F``.
        per_hop: ``λ ≥ 0``.
        per_extra: ``μ ≥ 0``.
        scale: the sum of the right side's terms without their signs, to which rounding is in proportion.
    """

    def __init__(
        self,
        kinds: NodeKinds,
        need: float,
        per_hop: float = 0.0,
        per_extra: float = 0.0,
        scale: float | None = None,
    ) -> None:
        self._rows, self._counts = kinds.capacity, kinds.counts
        self._added = 0.0 if kinds.extra is None else per_extra * kinds.extra
        width = self._rows.shape[1]
        self._held = np.arange(width) * (self._rows > 0) > 0
        self._counted = np.maximum(np.arange(width) - per_hop, 0.0)
        self._need = need
        self._rest = 0.0 if scale is None else scale - need
        self.all_nodes = float(self._rows.max(axis=1, initial=0.0) @ self._counts)
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
