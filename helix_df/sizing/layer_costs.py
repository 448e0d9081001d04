"""The least cost of carrying a flow through one layer by whole nodes, for given prices of nodes; and good prices.

Owns the dynamic program and the linear program over what it finds. Unlike ``graph.priced_covering`` it counts any
number of nodes on a layer one by one and knows no links, as sizing asks about flows of many nodes whose number is open.
"""

from __future__ import annotations

import numpy as np

from helix_df.graph.capacities import Floats, Ints
from helix_df.graph.price_search import maximum

PARTS = 40_000
"""Parts of the flow in which a node's share is counted, always rounded up."""

SAFE = 1e-12
"""Rounding must never take a node for less than it carries."""

ROUNDS = 80
"""Layers that are added to one linear program at most."""

CLOSE = 1e-6
"""Share of what the linear program hopes for with which the search is content."""


class LayerCosts:
    """Kinds of nodes and a flow; ``capacity[kind, k]`` is tokens/s with ``k`` layers.

    A node of price ``π`` that holds ``k`` layers costs ``π/k`` on each of them.
    """

    def __init__(self, capacity: Floats, flow: float) -> None:
        self.kinds, self.layers = np.nonzero(capacity)
        served = capacity[self.kinds, self.layers]
        parts = np.ceil(PARTS * (served / flow) * (1 + SAFE)).clip(1, PARTS - 1).astype(np.int64)
        # Less than the flow needs a second node, however little is missing.
        self._parts: Ints = np.where(served >= flow * (1 - SAFE), PARTS, parts)
        self._count = len(capacity)

    def cheapest(self, prices: Floats) -> tuple[float, Floats]:
        """Cost of the cheapest layer, and how much of a node of each kind it takes (``1/k`` for a node of ``k``).

        The cost is no more than any layer's that carries the flow, since parts are rounded up.
        """
        cost = prices[self.kinds] / self.layers
        keep = _undominated(self._parts, cost)
        parts, cost = self._parts[keep], cost[keep]
        least = np.zeros(PARTS + 1)
        step = int(parts.min())
        for first in range(1, PARTS + 1, step):
            wanted = np.arange(first, min(first + step, PARTS + 1))
            least[wanted] = (least[np.maximum(wanted[None, :] - parts[:, None], 0)] + cost[:, None]).min(axis=0)
        use, left = np.zeros(self._count), PARTS
        while left > 0:
            option = int((least[np.maximum(left - parts, 0)] + cost).argmin())
            use[self.kinds[keep[option]]] += 1 / self.layers[keep[option]]
            left = max(left - int(parts[option]), 0)
        return float(least[PARTS]), use


def _undominated(parts: Ints, cost: Floats) -> Ints:
    """Options that nothing as cheap outruns."""
    order = np.lexsort((cost, -parts))
    before = np.concatenate([[np.inf], np.minimum.accumulate(cost[order])[:-1]])
    return order[cost[order] < before]


class NodePricing:
    """Prices by which one layer costs as much as can be, beside what given nodes cost; layers once found are kept."""

    def __init__(self, costs: LayerCosts, kinds: int) -> None:
        self._costs, self._kinds = costs, kinds
        self._layers: list[Floats] = []

    def best(self, weights: Floats) -> tuple[float, Floats]:
        """Cost of the cheapest layer, and prices at which nodes in these numbers (all above 0) cost 1 together."""
        best, chosen = 0.0, np.zeros(self._kinds)
        for _ in range(ROUNDS):
            hoped, prices = self._program(weights)
            cost, use = self._costs.cheapest(prices)
            if cost > best:
                best, chosen = cost, prices
            if hoped - best <= CLOSE * hoped:
                break
            self._layers.append(use)
        return best, chosen

    def _program(self, weights: Floats) -> tuple[float, Floats]:
        """The most that every known layer costs, and prices for it."""
        if not self._layers:
            self._layers.append(self._costs.cheapest(1 / weights / self._kinds)[1])
        goal = np.append(np.zeros(self._kinds), 1.0)
        rows = [np.append(weights, 0.0), *(np.append(-use, 1.0) for use in self._layers)]
        found = maximum(goal, np.array(rows), np.array([1.0, *(0.0 for _ in self._layers)]))
        return float(found[-1]), found[:-1] / max(1.0, float(found[:-1] @ weights))
