"""Good prices for ``priced_covering``: a small linear program that grows by the layers it takes for too expensive.

Owns the search. What it finds proves nothing by itself: every bound is checked by ``dual_bound``. The simplex method is
our own, so that planning gives the same prices everywhere, and plans without a witness are checked without a solver.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from helix_df.graph.capacities import Floats
from helix_df.graph.priced_covering import (
    GRID,
    MOST,
    PROVEN,
    Cluster,
    LayerTable,
    covering_prices,
    crossing_capacity,
    crossing_flow,
    describe,
    dual_bound,
    dual_bound_of,
    lowest_proven,
)
from helix_df.graph.problem import Problem
from helix_df.graph.sites import find_sites
from helix_df.graph.witness import NodePrices, site_names

MOST_KINDS = 24
"""Kinds of nodes up to which prices are searched for; with more, only those of the covering bound are tried."""

ROUNDS = 10
"""Flows for which prices are searched at most."""

CLOSE = 1e-4
"""How much lower, as a share, the next flow is than what is ruled out already."""

LOWEST = 0.5
"""Share of a flow down to which its prices are tried."""

ENOUGH = 0.7
"""Share of what better prices may still gain with which the search is content."""

EXACT = 1e-9
"""How close the bound comes to the lowest flow that its prices rule out."""

CUTS = 60
"""Times that layers are added for one flow at most."""

REMEMBERED = 64
"""Clusters whose bound is remembered."""

PIVOTS = 5000
SMALL = 1e-9
TINY = 1e-11
"""Steps of the simplex method at most, and what counts as nothing in it."""


def find_prices(problem: Problem, covering: float) -> NodePrices | None:
    """The prices that rule out the lowest flow the search finds below ``covering``, the covering bound.

    ``None`` when it finds none, as where every layer needs more nodes than are counted one by one.
    """
    sites = find_sites(problem).members
    cluster, kind_of = describe(problem, sites)
    if covering <= 0 or not len(cluster.capacity) or covering > MOST * cluster.capacity.max():
        return None
    found = _search(cluster, covering)
    if found is None:
        return None
    flow, prices = found
    # The first node of each kind stands for all of it.
    first = {int(kind): node.name for kind, node in zip(kind_of[::-1], problem.nodes[::-1], strict=True) if kind >= 0}
    by_name = {first[kind]: float(price) for kind, price in enumerate(prices)}
    return NodePrices(flow, by_name, site_names(problem, sites))


# Whoever plans a job asks again and again: the solver, the plan it makes.
@lru_cache(maxsize=REMEMBERED)
def _search(cluster: Cluster, covering: float) -> tuple[float, Floats] | None:
    search = PriceSearch(cluster)
    bound, best = covering, None
    for _ in range(ROUNDS):
        flow = bound * (1 - CLOSE)
        prices = search.ruling_out(flow)
        if prices is None:
            break
        bound, best = lowest_proven(cluster, prices, LOWEST * flow, flow, CLOSE / 10), prices
    return None if best is None else (lowest_proven(cluster, best, bound * (1 - CLOSE), bound, EXACT), best)


class PriceSearch:
    """Maximises ``dual_bound`` over prices, for one flow after another; layers once found are kept.

    Variables: a price for each kind; for each number of nodes the cost of a layer; the least of these; and the price of
    what crosses between sites. All prices together are 1.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.kinds = len(cluster.counts)
        self.size = self.kinds + MOST + 2
        self.layers: list[tuple[float, Floats]] = []

    def ruling_out(self, flow: float) -> Floats | None:
        """Prices by which ``dual_bound`` is over 1 for ``flow``, or ``None`` if none were found."""
        if self.kinds > MOST_KINDS:
            prices = covering_prices(self.cluster, flow)
            return prices if dual_bound(self.cluster, prices, flow) > PROVEN else None
        best, most = None, PROVEN
        rules, limits = self._rules(flow)
        goal = np.zeros(self.size)
        goal[-2:] = self.cluster.num_layers, crossing_flow(self.cluster, flow) / flow
        for _ in range(CUTS):
            # Nodes that carry more than this flow carry it too.
            layers = [row for carried, row in self.layers if carried >= flow]
            found = maximum(goal, np.array([*rules, *layers]), np.array([*limits, *(0.0 for _ in layers)]))
            prices = found[: self.kinds]
            table = LayerTable(self.cluster, prices, flow)
            reached, hoped = dual_bound_of(self.cluster, prices, flow, table.costs()), float((goal * found).sum())
            if reached > most:
                best, most = prices, reached
            if hoped <= PROVEN or reached - 1 > ENOUGH * (hoped - 1) or not self._add_layers(table, found, flow):
                break
        return best

    def _rules(self, flow: float) -> tuple[list[Floats], list[float]]:
        """Rows and limits that don't depend on layers: what ``dual_bound`` does with their costs."""
        cost = range(self.kinds, self.kinds + MOST)
        everything = np.zeros(self.size)
        everything[: self.kinds] = self.cluster.counts
        rules = [everything]
        for n in range(1, MOST + 1):
            rules += [self._row({cost[n - 1]: 1.0}), self._row({cost[n - 1]: -1.0, self.size - 2: 1.0})]
        limits = [1.0, *((1.0, 0.0) * MOST)]
        for n in range(1, MOST + 1):
            for m in range(n, MOST + 1):
                capacity = crossing_capacity(self.cluster, n, m, flow)
                if capacity > 0:
                    row = self._row({self.size - 2: 2.0, self.size - 1: 2 * capacity / flow})
                    row[cost[n - 1]] -= 1
                    row[cost[m - 1]] -= 1
                    rules.append(row)
                    limits.append(0.0)
        return rules, limits

    def _row(self, entries: dict[int, float]) -> Floats:
        row = np.zeros(self.size)
        for position, value in entries.items():
            row[position] = value
        return row

    def _add_layers(self, table: LayerTable, found: Floats, flow: float) -> bool:
        """Add the cheapest layer for each number of nodes if it costs less than ``found`` says; whether any did."""
        costs = table.costs()
        added = False
        for n in range(1, MOST + 1):
            believed = found[self.kinds + n - 1]
            if not costs[n - 1] < believed - SMALL:
                continue
            options, rest = table.nodes(n)
            row = self._row({self.kinds + n - 1: 1.0})
            for option in options:
                row[table.kinds[option]] -= 1 / table.layers[option]
            if rest:
                cheapest = table.cheapest
                share = min(table.capacity[cheapest], flow) / flow
                row[table.kinds[cheapest]] -= rest / GRID / share / table.layers[cheapest]
            self.layers.append((flow, row))
            added = True
        return added


def maximum(goal: Floats, rows: Floats, limits: Floats) -> Floats:
    """A ``y ≥ 0`` with the largest ``goal·y`` under ``rows·y ≤ limits``, ``limits ≥ 0``; roughly, if not bounded."""
    return maximum_and_duals(goal, rows, limits)[0]


def maximum_and_duals(goal: Floats, rows: Floats, limits: Floats) -> tuple[Floats, Floats]:
    """As ``maximum``, and what one more of each limit is worth.

    Dantzig's simplex method on a full tableau. Limits are raised a little, each by another amount, so that it never
    stays where it is.
    """
    count, size = rows.shape
    tableau = np.zeros((count + 1, size + count + 1))
    tableau[:count, :size] = rows
    tableau[:count, size:-1] = np.eye(count)
    tableau[:count, -1] = limits + SMALL * (1 + np.arange(count) / count)
    tableau[count, :size] = -goal
    basis = np.arange(size, size + count)
    for _ in range(PIVOTS):
        column = int(tableau[count, :-1].argmin())
        if tableau[count, column] >= -TINY:
            break
        entries = tableau[:count, column]
        ratios = np.full(count, np.inf)
        np.divide(tableau[:count, -1], entries, out=ratios, where=entries > TINY)
        row = int(ratios.argmin())
        if not np.isfinite(ratios[row]):
            break
        tableau[row] /= tableau[row, column]
        factors = tableau[:, column].copy()
        factors[row] = 0.0
        tableau -= factors[:, None] * tableau[row]
        basis[row] = column
    found = np.zeros(size + count)
    found[basis] = tableau[:count, -1]
    return np.maximum(found[:size], 0.0), np.maximum(tableau[count, size:-1], 0.0)
