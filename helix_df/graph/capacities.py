"""The numbers of a problem as arrays: what nodes serve by layers held, and what links carry, in tokens/s.

Owns the translation of ``Problem`` into matrices, fast enough for 1,000 nodes. Doesn't know placements.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from helix_df.graph.problem import COORDINATOR, Link, Problem

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def capacity_matrix(problem: Problem) -> Floats:
    """Tokens/s of node ``i`` with ``k`` layers at ``[i, k]``, network card included; 0 for none and more than fit.

    A node whose layers are pinned serves nothing with another number of layers, and one that no way of links joins with
    the coordinator serves nothing at all.
    """
    widest = max((node.max_layers for node in problem.nodes), default=0)
    capacity = np.zeros((len(problem.nodes), widest + 1))
    rows: dict[tuple[object, ...], Floats] = {}
    for i, node in enumerate(problem.nodes):
        key = (node.tokens_per_s, node.nic_bytes_per_s)
        if key not in rows:
            rows[key] = np.array([problem.node_capacity(node, k) for k in range(1, node.max_layers + 1)])
        capacity[i, 1 : node.max_layers + 1] = rows[key]
        pinned = problem.limits.fixed.get(node.name)
        if pinned is not None:
            capacity[i, np.arange(widest + 1) != len(pinned)] = 0.0
    if problem.links.default is None:
        capacity[~_reached(problem)] = 0.0
    return capacity


def _reached(problem: Problem) -> NDArray[np.bool_]:
    """Nodes that links join with the coordinator, over other nodes that hold layers if need be."""
    linked = link_matrix(problem) > 0
    usable = np.array([node.max_layers > 0 for node in problem.nodes], dtype=np.bool_)
    reached: NDArray[np.bool_] = linked[-1, :-1] & usable
    frontier = reached
    while frontier.any():
        frontier = linked[:-1, :-1][frontier].any(axis=0) & usable & ~reached
        reached = reached | frontier
    return reached


def request_matrix(problem: Problem) -> Ints:
    """Requests (``limits.request_tokens`` each) whose KV cache fits on node ``i`` beside ``k`` layers at ``[i, k]``.

    0 for no layers and more than fit.
    """
    widest = max((node.max_layers for node in problem.nodes), default=0)
    fit = np.zeros((len(problem.nodes), widest + 1), dtype=np.int64)
    for i, node in enumerate(problem.nodes):
        fit[i, 1 : node.max_layers + 1] = np.array(node.kv_tokens, dtype=np.int64) // problem.limits.request_tokens
    return fit


def link_matrix(problem: Problem) -> Floats:
    """Tokens/s from node to node in the order of ``problem.nodes``, the coordinator last; 0 where there is no link.

    The same numbers as ``Problem.link_capacity``, filled region by region, so that 1,000 nodes take milliseconds.
    """
    table = problem.links
    names = [*(node.name for node in problem.nodes), COORDINATOR]
    regions = sorted({table.regions[name] for name in names})
    code = np.array([regions.index(table.regions[name]) for name in names])
    place = {name: i for i, name in enumerate(names)}

    def spread(rate: Callable[[Link | None], float]) -> Floats:
        by_region = np.full((len(regions), len(regions)), rate(table.default))
        for (a, b), link in table.by_region.items():
            if a in regions and b in regions:
                by_region[regions.index(a), regions.index(b)] = rate(link)
                by_region[regions.index(b), regions.index(a)] = rate(link)
        rates: Floats = by_region[code[:, None], code[None, :]]
        for (first, second), link in table.by_node.items():
            if first in place and second in place:
                rates[place[first], place[second]] = rates[place[second], place[first]] = rate(link)
        return rates

    rates = spread(lambda link: link.bytes_per_s / problem.packed_bytes(link.codec) if link is not None else 0.0)
    tokens = spread(lambda link: link.bytes_per_s / problem.token_bytes if link is not None else 0.0)
    rates[-1, :], rates[:, -1] = tokens[-1, :], tokens[:, -1]
    np.fill_diagonal(rates, 0.0)
    return rates
