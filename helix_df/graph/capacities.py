"""The numbers of a problem as arrays: what nodes serve by layers held, and what links carry, in tokens/s.

Owns the translation of ``Problem`` into matrices. Doesn't know placements.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from helix_df.graph.link_classes import LinkClasses
from helix_df.graph.problem import Problem

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def capacity_matrix(problem: Problem) -> Floats:
    """Tokens/s of node ``i`` with ``k`` layers at ``[i, k]``, network card included; 0 for none and more than fit.

    A node whose layers are pinned serves nothing with another number of layers, and one that no way of links leads to
    from the coordinator, or none back, serves nothing at all.
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
        usable = np.array([node.max_layers > 0 for node in problem.nodes], dtype=np.bool_)
        capacity[~LinkClasses(problem).reached(usable)] = 0.0
    return capacity


def request_matrix(problem: Problem) -> Ints:
    """Requests (``limits.request_tokens`` each) whose KV cache fits on node ``i`` beside ``k`` layers at ``[i, k]``.

    0 for no layers and more than fit.
    """
    widest = max((node.max_layers for node in problem.nodes), default=0)
    fit = np.zeros((len(problem.nodes), widest + 1), dtype=np.int64)
    found: dict[tuple[int, ...], Ints] = {}
    for i, node in enumerate(problem.nodes):
        if node.kv_tokens not in found:
            held = [problem.limits.held_tokens(k) for k in range(1, len(node.kv_tokens) + 1)]
            fits = np.array(node.kv_tokens, dtype=np.int64) // np.array(held)
            found[node.kv_tokens] = fits.astype(np.int64)
        fit[i, 1 : node.max_layers + 1] = found[node.kv_tokens]
    return fit


def link_matrix(problem: Problem) -> Floats:
    """Tokens/s from node to node in the order of ``problem.nodes``, the coordinator last; 0 where there is no link.

    The same numbers as ``Problem.link_capacity``. Grows with the square of the nodes, which ``LinkClasses`` doesn't.
    """
    links = LinkClasses(problem)
    rates = np.zeros((len(links.code) + 1, len(links.code) + 1))
    rates[:-1, :-1] = links.between[links.code[:, None], links.code]
    rates[-1, :-1], rates[:-1, -1] = links.enters, links.leaves
    np.fill_diagonal(rates, 0.0)
    return rates
