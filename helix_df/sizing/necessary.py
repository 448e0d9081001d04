"""What every fleet that serves a flow must have, as linear inequalities over the counts of offers.

Owns these inequalities, their proofs and how new ones are found. Doesn't know prices in money, or search fleets.

Each says ``Σ_o values[o]·n_o ≥ need`` in whole numbers. They are the arguments of ``graph.witness`` read the other way:
there the nodes are given and a flow is ruled out; here the flow ``F`` is given and fleets are ruled out. In all of them
a node adds an amount that depends on its own table alone, so the sum over a fleet is linear in its counts. Rounding is
on the side of the fleet: values up, needs down.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from helix_df.graph.bounds import best_limited_covering
from helix_df.graph.capacities import Floats, Ints, capacity_matrix, request_matrix
from helix_df.graph.problem import Problem
from helix_df.sizing.layer_costs import LayerCosts, NodePricing
from helix_df.sizing.market import Fleet, Market

SCALE = 10_000_000
"""What the need of an inequality becomes in whole numbers."""

ROUNDING = 1e-9
"""Share by which values are raised and needs lowered, far more than the arithmetic can be wrong."""

ABSENT = 0.05
"""Nodes that are taken to be there of offers that a fleet has none of, so that their prices stay finite."""


@dataclass(frozen=True, slots=True)
class Inequality:
    """``Σ_o values[o]·n_o ≥ need``, and the argument's name."""

    kind: str
    values: tuple[int, ...]
    need: int

    def holds(self, fleet: Fleet) -> bool:
        """Whether a fleet meets it."""
        return sum(value * count for value, count in zip(self.values, fleet, strict=True)) >= self.need


class Necessary:
    """The inequalities of one market and one flow, in tokens/s."""

    def __init__(self, market: Market, flow: float) -> None:
        self.market, self.flow = market, flow
        self._problem: Problem = market.whole
        self._capacity = capacity_matrix(self._problem)
        self._layers = np.arange(self._capacity.shape[1])
        self._capacity_of_kinds, self._kind = _kinds(self._capacity)
        kinds = len(self._capacity_of_kinds)
        self._pricing = NodePricing(LayerCosts(self._capacity_of_kinds, flow), kinds)

    def first(self) -> Inequality | None:
        """Layers and speed: ``LayerCovering`` at ``F``.

        Proof. A placement with a flow above ``F`` has one of ``F``. By the proof of ``LayerCovering`` its nodes meet
        ``Σ_i max_k k·min(T_i(k)/F, 1) ≥ L``; no node adds more than the layers that it holds, so this counts memory,
        too. Nodes of the fleet that stay empty add nothing less than 0.
        """
        held = np.minimum(self._capacity / self.flow, 1.0) * self._layers
        return self._inequality("layers", held.max(axis=1, initial=0.0), self._problem.num_layers)

    def against(self, fleet: Fleet) -> Iterator[Inequality]:
        """Inequalities that a fleet doesn't meet, as far as any are found."""
        for found in (self._limited(fleet), self._priced(fleet)):
            if found is not None and not found.holds(fleet):
                yield found

    def _limited(self, fleet: Fleet) -> Inequality | None:
        """``LimitedCovering`` at ``F``, a sum over nodes, too, with the prices that say most of this fleet."""
        limits, layers = self._problem.limits, self._problem.num_layers
        if limits.max_hops is None and not limits.min_requests:
            return None
        found = best_limited_covering(self.market.problem(fleet))
        fit = request_matrix(self._problem)
        share = np.minimum(self._capacity / self.flow, 1.0) * np.maximum(self._layers - found.per_hop, 0.0)
        added = found.per_request * fit * np.arange(fit.shape[1])
        amount = np.where(self._capacity > 0, share + added, 0.0).max(axis=1, initial=0.0)
        hops, requests = found.per_hop * (limits.max_hops or 0), found.per_request * layers * limits.min_requests
        return self._inequality("limits", amount, layers - hops + requests, layers + hops + requests)

    def _priced(self, fleet: Fleet) -> Inequality | None:
        """Whole nodes on every layer, for prices of nodes that say most of this fleet.

        Proof. Take a placement with flow ``F``, and let a node of price ``π_i ≥ 0`` with ``k`` layers cost ``π_i/k`` on
        each of them, so that all layers together cost at most ``Σ_i π_i``. Each pipeline runs a layer on one node, so
        the nodes on a layer serve at least ``F`` together, and cost at least ``a``, the least cost of any nodes of the
        kinds that there are, as many as one likes, that serve ``F`` together (``LayerCosts``). Hence ``Σ_i π_i ≥ L·a``.
        ``a`` depends on the kinds alone and not on how many nodes there are: with all offers among the kinds this holds
        for every fleet. (``graph.priced_covering`` proves the same of one cluster, with links.)
        """
        if not len(self._capacity_of_kinds):
            return None
        counts = np.zeros(len(self._capacity_of_kinds))
        for kind, count in zip(self._kind, (*(1,) * self.market.kept, *fleet), strict=True):
            if kind >= 0:
                counts[kind] += count
        cost, prices = self._pricing.best(np.maximum(counts, ABSENT))
        amount = np.where(self._kind >= 0, prices[self._kind], 0.0)
        return self._inequality("whole nodes", amount, self._problem.num_layers * cost)

    def _inequality(self, kind: str, amount: Floats, need: float, scale: float | None = None) -> Inequality | None:
        """The inequality where node ``i`` of the market adds ``amount[i]``; ``None`` when the kept nodes meet it.

        ``scale``: the sum of the need's terms without their signs, to which rounding is in proportion.
        """
        kept = self.market.kept
        left = need - ROUNDING * (scale or need) - float(amount[:kept].sum()) * (1 + ROUNDING)
        if left <= 0:
            return None
        values = np.ceil(amount[kept:] / left * SCALE * (1 + ROUNDING)).clip(0, SCALE)
        return Inequality(kind, tuple(int(value) for value in values), SCALE)


def _kinds(capacity: Floats) -> tuple[Floats, Ints]:
    """The kinds of nodes by what they serve, and each node's kind (-1 where it serves nothing)."""
    kinds, kind = np.unique(capacity, axis=0, return_inverse=True)
    useful = (kinds > 0).any(axis=1)
    return kinds[useful], np.where(useful, np.cumsum(useful) - 1, -1)[kind.reshape(-1)]
