"""Upper bounds on the flow of any placement, as pure functions, each with its proof.

Closed forms and bisections over them: whoever doubts a bound computes it again with plain arithmetic. Doesn't solve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from helix_df.graph.capacities import Floats, link_matrix, request_matrix, speed_matrix
from helix_df.graph.price_search import priced_covering_bound
from helix_df.graph.problem import Problem
from helix_df.graph.sites import find_sites

PRICE_ROUNDS = 3
PRICE_STEPS = 8
"""Rounds and steps to either side of the search for prices in ``best_limited_bound``."""


@dataclass(frozen=True, slots=True)
class Bound:
    """Tokens/s that no placement exceeds, and the argument that proves it."""

    kind: str
    bound: float


def covering_bound(problem: Problem) -> float:
    """No placement has more tokens/s than the largest ``F`` with ``Σ_i max_k k·min(T_i(k), F) ≥ L·F``.

    Proof. Take a placement with flow ``F`` where node ``i`` holds ``k_i`` layers. Every token runs every layer once,
    so the nodes that hold a layer pass at least ``F`` together, and one of them passes at most ``min(T_i(k_i), F)``.
    Sum over the ``L`` layers: node ``i`` is counted ``k_i`` times, hence ``Σ_i k_i·min(T_i(k_i), F) ≥ L·F``. Replace
    ``k_i`` by the best ``k``. Divided by ``F`` the left side never grows with ``F``, so bisection finds the largest.
    Links and network cards only lower the flow. Holds with and without partial inference.

    Returns 0 when the nodes can't hold all layers.
    """
    return _covering(speed_matrix(problem), problem.num_layers)


def linked_covering_bound(problem: Problem) -> float:
    """``covering_bound`` where a node also passes no more than half of what its links carry together.

    Proof. A placement uses the link between two nodes in one direction only: a request goes from ``i`` to ``j`` only if
    ``stop_i < stop_j`` (with and without partial inference). So what enters node ``i`` and what leaves it share
    ``Σ_j c_ij`` between nodes; with fewer than all layers the node also starts or ends at the coordinator, not both,
    hence ``2·f_i ≤ Σ_j c_ij + c_i``. With all ``L`` layers ``2·f_i ≤ Σ_j c_ij + 2·c_i``. These limits may replace
    ``T_i(k)`` by the smaller number in the proof of ``covering_bound``.
    """
    speed, links = speed_matrix(problem), link_matrix(problem)
    between, coordinator = links[:-1, :-1].sum(axis=1), links[:-1, -1]
    limited = np.minimum(speed, ((between + coordinator) / 2)[:, None])
    if speed.shape[1] > problem.num_layers:
        whole = problem.num_layers
        limited[:, whole] = np.minimum(speed[:, whole], between / 2 + coordinator)
    return _covering(limited, problem.num_layers)


def limited_covering_bound(problem: Problem, per_hop: float = 0.0, per_request: float = 0.0) -> float:
    """``covering_bound`` among placements that keep ``limits.max_hops`` and ``limits.min_requests``, for two prices.

    Proof. Take a placement with flow ``F`` that keeps the limits; a token visits at most ``H`` nodes and runs all ``L``
    layers on them, so the layers it runs, less ``per_hop`` = ``λ`` for each node it visits, are at least ``L − λ·H``.
    Summed over the flow, a node that passes ``f_i ≤ min(T_i(k_i), F)`` with ``k_i`` layers gives at most
    ``max(0, k_i − λ)·f_i``, hence ``Σ_i max(0, k_i − λ)·min(T_i(k_i), F) ≥ (L − λ·H)·F``. Every layer has KV cache for
    ``R`` requests, so with ``q_i(k)`` requests on node ``i``, summed over layers, ``Σ_i k_i·q_i(k_i) ≥ L·R``. Add the
    second, times ``per_request`` = ``μ``, to the first divided by ``F`` and replace ``k_i`` by the best ``k``:
    ``Σ_i max_k [max(0, k − λ)·min(T_i(k)/F, 1) + μ·k·q_i(k)] ≥ L − λ·H + μ·L·R``. The left side never grows with ``F``,
    so bisection finds the largest ``F``. Holds for any ``λ, μ ≥ 0``; without a limit on hops ``λ`` must be 0.

    Returns 0 when no flow above 0 meets the condition: then no placement keeps the limits.
    """
    hops = problem.limits.max_hops or 0
    fit = request_matrix(problem)
    held: Floats = (fit * np.arange(fit.shape[1])).astype(np.float64)
    need = problem.num_layers - per_hop * hops + per_request * problem.num_layers * problem.limits.min_requests
    return _covering(speed_matrix(problem), need, per_hop, per_request * held)


def best_limited_bound(problem: Problem) -> float:
    """``limited_covering_bound`` with good prices: one price at a time, over finer and finer grids.

    Any prices prove a bound; these are chosen the same way by whoever computes it again.
    """
    limits, layers = problem.limits, problem.num_layers
    most_per_hop = layers / limits.max_hops if limits.max_hops else 0.0
    most_per_request = 4.0 / limits.min_requests if limits.min_requests else 0.0
    best, prices = limited_covering_bound(problem), (0.0, 0.0)
    spread = (most_per_hop, most_per_request)
    for _ in range(PRICE_ROUNDS):
        for which in (0, 1):
            for step in range(-PRICE_STEPS, PRICE_STEPS + 1) if spread[which] else ():
                tried = list(prices)
                tried[which] = max(0.0, prices[which] + spread[which] * step / PRICE_STEPS)
                if which == 0 and tried[0] >= most_per_hop:
                    continue
                bound = limited_covering_bound(problem, tried[0], tried[1])
                if bound < best:
                    best, prices = bound, (tried[0], tried[1])
        spread = (spread[0] / 4, spread[1] / 4)
    return best


def site_bound(problem: Problem, sites: Sequence[Sequence[int]]) -> float:
    """What each site (positions of nodes) serves alone, and what the links between sites carry.

    Proof. Split a placement's flow into pipelines. Those that stay inside one site are a flow over its nodes alone, at
    most the site's ``covering_bound``. Every other pipeline uses at least ``m`` links between sites, where no ``m``
    sites hold ``L`` layers together or ``m = 1``; a link is used in one direction only (``linked_covering_bound``), so
    these pipelines carry at most ``Σ c / m``. Whoever uses more sites crosses at least once for each but the first:
    with ``n`` the least number of sites whose memory holds the model, ``m = max(1, n - 1)``.
    """
    speed, links = speed_matrix(problem), link_matrix(problem)
    most = [sum(problem.nodes[i].max_layers for i in site) for site in sites]
    alone = sum(_covering(speed[list(site)], problem.num_layers) for site in sites)
    held, needed = 0, 0
    for layers in sorted(most, reverse=True):
        if held >= problem.num_layers:
            break
        held, needed = held + layers, needed + 1
    group = np.full(len(problem.nodes), -1)
    for g, site in enumerate(sites):
        group[list(site)] = g
    between = links[:-1, :-1][group[:, None] != group[None, :]].sum() / 2
    return float(alone + between / max(1, needed - 1))


def best_bound(problem: Problem) -> Bound:
    """The lowest of all bounds; the simplest argument where several agree."""
    covering = covering_bound(problem)
    candidates = [
        Bound("covering", covering),
        Bound("linked covering", linked_covering_bound(problem)),
        Bound("sites", site_bound(problem, find_sites(problem).members)),
        Bound("priced covering", priced_covering_bound(problem, covering)),
    ]
    if problem.limits.max_hops is not None or problem.limits.min_requests:
        candidates.append(Bound("limited covering", best_limited_bound(problem)))
    best = candidates[0]
    for candidate in candidates[1:]:
        if candidate.bound < best.bound * (1 - 1e-9):
            best = candidate
    return best


def _covering(speed: Floats, need: float, per_hop: float = 0.0, extra: Floats | None = None) -> float:
    """The bisection of ``limited_covering_bound`` for tokens/s by node and layers held (column 0 is no layers).

    ``need`` is its right side and ``extra`` what node ``i`` adds to the left with ``k`` layers, both free of ``F``.
    """
    table = speed if extra is None else np.concatenate([speed, extra], axis=1)
    table, counts = np.unique(table, axis=0, return_counts=True) if len(table) else (table, np.zeros(0))
    width = speed.shape[1]
    rows, added = table[:, :width], table[:, width:] if extra is not None else 0.0
    layers_held = np.arange(width)
    counted = np.maximum(layers_held - per_hop, 0.0)

    def covers(flow: float) -> bool:
        share = np.minimum(rows / flow, 1.0) if flow > 0 else rows > 0
        best = np.where(layers_held * (rows > 0) > 0, share * counted + added, 0.0).max(axis=1, initial=0.0)
        # Rounding must never cut off a flow that is reached exactly.
        return float(best @ counts) >= need * (1 - 1e-12)

    low, high = 0.0, float(speed.max(axis=1, initial=0.0).sum())
    if not covers(0.0):
        return 0.0
    if covers(high):
        return high
    while high - low > 1e-12 * high and math.nextafter(low, high) < high:
        middle = (low + high) / 2
        low, high = (middle, high) if covers(middle) else (low, middle)
    return high
