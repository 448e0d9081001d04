"""An upper bound on the flow that counts whole nodes on every layer, and links where tokens cross between sites.

Owns the argument and its check by plain arithmetic, for any prices of nodes. Doesn't know how good prices are found
(``price_search``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from helix_df.graph.capacities import Floats, Ints, capacity_matrix
from helix_df.graph.link_classes import LinkClasses
from helix_df.graph.problem import Problem

MOST = 5
"""Nodes on a layer that are counted one by one; ``MOST`` stands for that many or more."""

GRID = 1000
"""Parts of the flow in which a node's share is counted, always rounded up."""

STEPS = 60
"""Steps towards the covering bound of a site, each of which is a bound."""

SAFE = 1e-12
"""Rounding must never cut off a flow that is reached exactly."""

PROVEN = 1 + 1e-9
"""``dual_bound`` over ``1`` by far more than its arithmetic can be wrong: what a search must reach."""

EVALUATED = 1 + 1e-10
"""``dual_bound`` over ``1`` by more than its arithmetic can be wrong (some 1e-13): what an evaluation must reach. The
rest lets another machine, which adds in another order, prove what was found here."""


@dataclass(frozen=True, slots=True, eq=False)
class Cluster:
    """What the argument needs of a problem.

    ``capacity[kind, k]`` is tokens/s with ``k`` layers, ``counts[kind]`` how many nodes are alike in this. ``alone``:
    tokens/s that sites serve at most without links between them. ``crossings``: links between sites that a token takes
    at least if it leaves its site. ``links[n]``: tokens/s that the best ``n`` links between sites carry together.
    """

    num_layers: int
    capacity: Floats
    counts: Floats
    alone: float
    crossings: int
    links: Floats

    def content(self) -> tuple[object, ...]:
        """All of it, to tell clusters apart."""
        arrays = (self.capacity.shape, self.capacity.tobytes(), self.counts.tobytes(), self.links.tobytes())
        return (self.num_layers, self.alone, self.crossings, *arrays)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cluster) and self.content() == other.content()

    def __hash__(self) -> int:
        return hash(self.content())


def describe(problem: Problem, sites: Sequence[Sequence[int]]) -> tuple[Cluster, Ints]:
    """The cluster of a problem, without the nodes that serve nothing, and each node's kind (-1 for those).

    ``sites`` are positions of nodes; any grouping will do.
    """
    capacity = capacity_matrix(problem)
    kinds, kind = np.unique(capacity, axis=0, return_inverse=True)
    kind = kind.reshape(-1)
    held = np.where(capacity > 0, np.arange(capacity.shape[1]), 0).max(axis=1, initial=0)
    memory = [int(held[list(site)].sum()) for site in sites]
    by_site = [np.bincount(kind[list(site)], minlength=len(kinds)) for site in sites]
    whole = [tuple(count) for count, layers in zip(by_site, memory, strict=True) if layers >= problem.num_layers]
    alone = (number * _alone(kinds, np.array(count), problem.num_layers) for count, number in Counter(whole).items())
    useful = (kinds > 0).any(axis=1)
    cluster = Cluster(
        problem.num_layers,
        kinds[useful],
        np.bincount(kind, minlength=len(kinds))[useful].astype(float),
        float(sum(alone)),
        max(1, _sites_needed(memory, problem.num_layers) - 1),
        _best_links(problem, sites),
    )
    return cluster, np.where(useful, np.cumsum(useful) - 1, -1)[kind]


def _alone(capacity: Floats, counts: Ints, num_layers: int) -> float:
    """No less than the covering bound of a site: a flow ``F`` there is at most ``Σ_i max_k k·min(T_i(k), F) / L``."""
    layers, flow = np.arange(capacity.shape[1]), np.inf
    for _ in range(STEPS):
        flow = float((counts * (np.minimum(capacity, flow) * layers).max(axis=1)).sum()) / num_layers
    return flow


def _sites_needed(memory: list[int], num_layers: int) -> int:
    """The least number of sites whose memory together holds the model."""
    reached = np.cumsum(sorted(memory, reverse=True))
    return int(np.searchsorted(reached, num_layers)) + 1


def _best_links(problem: Problem, sites: Sequence[Sequence[int]]) -> Floats:
    """Tokens/s of the best 0, 1, 2, ... links between sites; a link is used in one direction only."""
    site = np.full(len(problem.nodes), -1)
    for g, members in enumerate(sites):
        site[list(members)] = g
    rates, counts = LinkClasses(problem).apart(np.flatnonzero(site >= 0), site)
    between = np.repeat(rates, np.minimum(counts, MOST * MOST))
    if len(between) > MOST * MOST:
        between = np.partition(between, len(between) - MOST * MOST)[-MOST * MOST :]
    best = np.sort(between)[::-1]
    return np.concatenate([np.zeros(1), np.cumsum(best)])


def covering_prices(cluster: Cluster, flow: float) -> Floats:
    """The prices with which this is ``covering_bound``: layers of ``flow`` tokens/s that a node counts for at most."""
    best: Floats = (np.minimum(cluster.capacity / flow, 1.0) * np.arange(cluster.capacity.shape[1])).max(axis=1)
    return best


class LayerTable:
    """The cheapest nodes that carry a flow through one layer, for given prices.

    A node of price ``π`` that holds ``k`` layers costs ``π/k`` on each. ``at[n][w]`` is the least cost of ``n`` nodes
    that carry ``w/GRID`` of the flow, each rounded up, by dynamic programming.
    """

    def __init__(self, cluster: Cluster, prices: Floats, flow: float) -> None:
        self.kinds, self.layers = np.nonzero(cluster.capacity)
        capacity = cluster.capacity[self.kinds, self.layers]
        cost = prices[self.kinds] / self.layers
        keep = _undominated(capacity, cost)
        self.kinds, self.layers, self.capacity, self.cost = (
            self.kinds[keep],
            self.layers[keep],
            capacity[keep],
            cost[keep],
        )
        # Less than the flow needs a second node, whatever the grid says.
        parts = np.ceil(GRID * (self.capacity / flow) * (1 + SAFE)).clip(1, GRID - 1).astype(np.int64)
        self.parts: Ints = np.where(self.capacity >= flow * (1 - SAFE), GRID, parts)
        per_part = flow * self.cost / np.minimum(self.capacity, flow) / GRID
        self.cheapest = int(per_part.argmin())
        self.per_part = float(per_part[self.cheapest])
        self.at = self._fill()

    def _fill(self) -> list[Floats]:
        before = np.maximum(np.arange(GRID + 1)[None, :] - self.parts[:, None], 0)
        at = [np.full(GRID + 1, np.inf)]
        at[0][0] = 0.0
        for _ in range(MOST):
            at.append((at[-1][before] + self.cost[:, None]).min(axis=0))
        return at

    def costs(self) -> Floats:
        """Least cost of a layer by nodes on it: 1, 2, ... and ``MOST`` or more; infinite where so few can't carry it.

        Never below the cost of as many fractions of the cheapest node, which also stand for all nodes after ``MOST``.
        """
        found = np.array([*(self.at[n][GRID] for n in range(1, MOST)), float(self._with_more().min())])
        costs: Floats = np.maximum(found, self.per_part * GRID)
        return costs

    def _with_more(self) -> Floats:
        more: Floats = self.at[MOST] + self.per_part * np.arange(GRID, -1, -1)
        return more

    def nodes(self, n: int) -> tuple[list[int], float]:
        """Options (positions in ``kinds``, ``layers``) of the ``n`` cheapest nodes; parts of ``cheapest`` on top."""
        share = GRID if n < MOST else int(self._with_more().argmin())
        rest, options = GRID - share, []
        for step in range(n, 0, -1):
            left = np.maximum(share - self.parts, 0)
            option = int((self.at[step - 1][left] + self.cost).argmin())
            options.append(option)
            share = int(left[option])
        return options, float(rest)


def _undominated(capacity: Floats, cost: Floats) -> Ints:
    """Options that nothing as cheap outruns, fastest first."""
    order = np.lexsort((cost, -capacity))
    before = np.concatenate([[np.inf], np.minimum.accumulate(cost[order])[:-1]])
    return order[cost[order] < before]


def crossing_capacity(cluster: Cluster, before: int, after: int, flow: float) -> float:
    """Tokens/s between sites from a layer on ``before`` nodes to one on ``after`` (proof: ``dual_bound``)."""
    if len(cluster.links) == 1:
        return 0.0

    def carry(links: int) -> float:
        return float(cluster.links[min(links, len(cluster.links) - 1)])

    if max(before, after) >= MOST:
        return flow
    if min(before, after) == 1:
        links = max(before, after)
        return flow if carry(links) >= flow * (1 - SAFE) else carry(links - 1)
    return min(flow, carry(before * after))


def crossing_flow(cluster: Cluster, flow: float) -> float:
    """Tokens/s over links between sites, each link counted, that a placement with this flow has at least."""
    return cluster.crossings * max(0.0, flow - cluster.alone)


def dual_bound(cluster: Cluster, prices: Floats, flow: float) -> float:
    """At most 1 if any placement has ``flow`` tokens/s; so more than 1 proves that none has as much.

    Proof. Take a placement and a flow of ``F`` through it; scaled down, a larger one will do. Split it into pipelines.
    Each runs every layer on one node, so the ``n_l`` nodes that work on layer ``l`` serve at least ``F`` together. Let
    a node of price ``π_i ≥ 0`` with ``k`` layers cost ``π_i/k`` on each of them, so that all layers together cost at
    most ``Σ_i π_i``. Layer ``l`` costs at least ``a(n_l)``, where ``a(n)`` is the least cost of any ``n`` nodes that
    serve ``F`` together (``LayerTable``). With ``a`` the least of all ``a(n)``: ``L·a + Σ_l (a(n_l) - a) ≤ Σ_i π_i``.

    Links. Look at what crosses between sites from layer ``p - 1`` to layer ``p``. A pipeline leaves a node only after
    the node's last layer. So two nodes use their link in one direction at most, and ``n`` nodes have at most ``n·n'``
    links to the next ``n'``. If one node does layer ``p - 1`` alone, either it goes on and nothing crosses, or it sends
    ``F`` to ``n'`` nodes: over ``n'`` links between sites if these carry ``F``, and otherwise to some node of its own
    site, and over ``n' - 1`` at most. If one node does layer ``p`` alone, it did layer ``p - 1`` too, or gets ``F``
    from ``n`` others: the same. So at most ``g(n, n')`` crosses (``crossing_capacity``). With ``c`` the least
    ``(a(n) - a + a(n') - a) / (2·g(n, n'))``, and a layer next to two others at most,
    ``Σ_l (a(n_l) - a) ≥ c·Σ_p g(n_{p-1}, n_p) ≥ c·W``, where ``W`` is all that crosses.

    Pipelines inside one site are a flow over its nodes alone, so they carry at most what ``LayerCovering`` says of it,
    and nothing where its memory doesn't hold the model. The others cross at least once, and once less than the number
    of sites that a model needs (``SiteShares``): ``W`` is at least ``crossing_flow``.

    Together ``(L·a + c·W) / Σ_i π_i ≤ 1``. Holds with and without partial inference, for any prices and any grouping of
    nodes into sites.
    """
    return dual_bound_of(cluster, prices, flow, LayerTable(cluster, prices, flow).costs())


def dual_bound_of(cluster: Cluster, prices: Floats, flow: float, costs: Floats) -> float:
    """``dual_bound`` where the costs of a layer are known."""
    least = float(costs.min())
    total = float((cluster.counts * prices).sum())
    if total <= 0 or not np.isfinite(least):
        return 0.0
    surplus = crossing_flow(cluster, flow) * crossing_price(cluster, costs, flow)
    return (cluster.num_layers * least + surplus) / total


def crossing_price(cluster: Cluster, costs: Floats, flow: float) -> float:
    """The least surplus of two layers, halved, for each token/s that crosses between them; 0 where nothing can."""
    surplus = costs - costs.min()
    prices = [
        float(surplus[n - 1] + surplus[m - 1]) / (2 * capacity)
        for n in range(1, MOST + 1)
        for m in range(n, MOST + 1)
        if (capacity := crossing_capacity(cluster, n, m, flow)) > 0
    ]
    return min(prices, default=0.0)


def lowest_proven(cluster: Cluster, prices: Floats, low: float, high: float, close: float) -> float:
    """The lowest flow that bisection finds these prices to rule out, up to a share ``close``, if they do ``high``."""
    while high - low > close * high:
        middle = (low + high) / 2
        low, high = (low, middle) if dual_bound(cluster, prices, middle) > PROVEN else (middle, high)
    return high
