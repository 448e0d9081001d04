"""Upper bounds on the flow of any placement, as pure functions, each with its proof.

Owns the search for the lowest of them and for the witness that proves it; ``witness`` evaluates one by plain
arithmetic, without any search. Doesn't solve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from helix_df.graph.price_search import find_prices
from helix_df.graph.problem import Problem
from helix_df.graph.sites import find_sites
from helix_df.graph.witness import (
    LayerCovering,
    LimitedCovering,
    LinkedCovering,
    SiteShares,
    Witness,
    layer_covering,
    limited_covering,
    limited_kinds,
    linked_covering,
    links_between,
    site_coverings,
    site_names,
)

PRICE_ROUNDS = 3
PRICE_STEPS = 8
"""Rounds and steps to either side of the search for prices in ``best_limited_covering``."""


@dataclass(frozen=True, slots=True)
class Bound:
    """Tokens/s that no placement exceeds, and the witness that proves it: its evaluation is the bound."""

    bound: float
    witness: Witness

    @property
    def kind(self) -> str:
        """The argument's name."""
        return self.witness.kind


def covering_bound(problem: Problem) -> float:
    """The lowest flow that ``LayerCovering`` rules out, to 12 digits; 0 when the nodes can't hold all layers."""
    return layer_covering(problem).largest()


def linked_covering_bound(problem: Problem) -> float:
    """The lowest flow that ``LinkedCovering`` rules out, as ``covering_bound``."""
    return linked_covering(problem).largest()


def limited_covering_bound(problem: Problem, per_hop: float = 0.0, per_request: float = 0.0) -> float:
    """The lowest flow that ``LimitedCovering`` rules out at these prices.

    Returns 0 when no flow above 0 meets the condition: then no placement keeps the limits.
    """
    return limited_covering(problem, limited_kinds(problem), per_hop, per_request).largest()


def best_limited_covering(problem: Problem) -> LimitedCovering:
    """``LimitedCovering`` with good prices: one price at a time, over finer and finer grids."""
    limits, layers = problem.limits, problem.num_layers
    most_per_hop = layers / limits.max_hops if limits.max_hops else 0.0
    most_per_request = 4.0 / limits.min_requests if limits.min_requests else 0.0
    kinds = limited_kinds(problem)
    best, prices = limited_covering(problem, kinds, 0.0, 0.0).largest(), (0.0, 0.0)
    spread = (most_per_hop, most_per_request)
    for _ in range(PRICE_ROUNDS):
        for which in (0, 1):
            for step in range(-PRICE_STEPS, PRICE_STEPS + 1) if spread[which] else ():
                tried = list(prices)
                tried[which] = max(0.0, prices[which] + spread[which] * step / PRICE_STEPS)
                if which == 0 and tried[0] >= most_per_hop:
                    continue
                bound = limited_covering(problem, kinds, tried[0], tried[1]).largest()
                if bound < best:
                    best, prices = bound, (tried[0], tried[1])
        spread = (spread[0] / 4, spread[1] / 4)
    return LimitedCovering(best, *prices)


def site_shares(problem: Problem, sites: Sequence[Sequence[int]]) -> Bound:
    """``SiteShares`` for these sites (positions of nodes), each with the lowest flow that is ruled out inside it."""
    alone = tuple(covering.largest() for covering in site_coverings(problem, sites))
    return Bound(float(sum(alone) + links_between(problem, sites)), SiteShares(site_names(problem, sites), alone))


def priced_covering_bound(problem: Problem, covering: float) -> float:
    """The lowest flow that any prices which the search finds rule out; ``covering`` where it finds none."""
    found = find_prices(problem, covering)
    return covering if found is None else found.flow


def all_bounds(problem: Problem) -> list[Bound]:
    """A bound of each kind that has something to say, simplest argument first."""
    covering, linked = covering_bound(problem), linked_covering_bound(problem)
    found = [
        Bound(covering, LayerCovering(covering)),
        Bound(linked, LinkedCovering(linked)),
        site_shares(problem, find_sites(problem).members),
    ]
    prices = find_prices(problem, covering)
    if prices is not None:
        found.append(Bound(prices.flow, prices))
    if problem.limits.max_hops is not None or problem.limits.min_requests:
        limited = best_limited_covering(problem)
        found.append(Bound(limited.flow, limited))
    return found


def best_bound(problem: Problem) -> Bound:
    """The lowest of all bounds; the simplest argument where several agree."""
    best, *candidates = all_bounds(problem)
    for candidate in candidates:
        if candidate.bound < best.bound * (1 - 1e-9):
            best = candidate
    return best
