"""What a placement must keep beside carrying flow: depth, KV memory, nodes to use, layers that are pinned.

Owns the meaning of ``PlacementLimits``: which links a limit on hops leaves in the flow graph, and which limits a
placement breaks, in words. Doesn't search.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from helix_df.graph.capacities import Ints
from helix_df.graph.problem import Placement, Problem

Bools = NDArray[np.bool_]


def requests_at_once(problem: Problem, placement: Placement) -> int:
    """Requests of ``limits.request_tokens`` whose KV cache fits on every layer, over all nodes that hold the layer."""
    by_layer = np.zeros(problem.num_layers, dtype=np.int64)
    for node in problem.nodes:
        layers = placement.get(node.name)
        if layers is not None:
            by_layer[layers.start : layers.stop] += int(
                node.kv_tokens[len(layers) - 1] // problem.limits.held_tokens(len(layers))
            )
    return int(by_layer.min(initial=2**62)) if problem.num_layers else 0


def broken_limits(problem: Problem, placement: Placement) -> list[str]:
    """What a placement doesn't keep, in words; empty when it keeps all. The depth is kept by the flow graph itself."""
    return [*_wrong_nodes(problem, placement), *_too_little_kv(problem, placement)]


def _wrong_nodes(problem: Problem, placement: Placement) -> Iterator[str]:
    limits = problem.limits
    for name in sorted(limits.excluded & set(placement)):
        yield f"{name} holds {placement[name]}, but limits.avoid leaves it out"
    for name in sorted(limits.required - set(placement)):
        yield f"{name} holds nothing, but limits.use asks for it"
    for name, layers in sorted(limits.fixed.items()):
        held = placement.get(name)
        if held != layers:
            yield f"{name} holds {held or 'nothing'}, but limits.pin says {layers}"


def _too_little_kv(problem: Problem, placement: Placement) -> Iterator[str]:
    fit, wanted = requests_at_once(problem, placement), problem.limits.min_requests
    if fit < wanted:
        yield f"the KV cache of {fit} requests fits at once, but limits.min_requests asks for {wanted}"


def within_hops(joins: Bools, first: Bools, last: Bools, stop: Ints, max_hops: int) -> tuple[Bools, Bools]:
    """The part of a flow graph in which no way through visits more than ``max_hops`` nodes.

    Args:
        joins: ``[i, j]`` whether a request goes from node ``i`` to node ``j``.
        first: whether requests enter at a node.
        last: whether requests leave from a node.
        stop: where a node's layers end; grows along every link.
        max_hops: nodes on a way through.

    A graph without longer ways stays whole. Otherwise a node's level is the least number of nodes on a way to it, its
    own included, and only links to the next level stay: every way to a node then has as many nodes as its level. A
    router may therefore choose every hop by itself and still keep the limit. Finding the best such part is a problem
    of its own; this one is simple, the same for all who compute it, and loses nothing where nodes form stages.

    Returns:
        ``joins`` and ``last`` without what is left out.
    """
    if _longest(joins, first, last, stop) <= max_hops:
        return joins, last
    level = np.zeros(len(first), dtype=np.int64)
    frontier, depth = first, 1
    while frontier.any():
        level[frontier] = depth
        frontier = joins[frontier].any(axis=0) & (level == 0)
        depth += 1
    shallow = (level > 0) & (level <= max_hops)
    onward = level[None, :] == level[:, None] + 1
    return joins & onward & shallow[:, None] & shallow[None, :], last & shallow


def _longest(joins: Bools, first: Bools, last: Bools, stop: Ints) -> int:
    """Most nodes on a way through; 0 when there is none."""
    nodes = np.where(first, 1, 0)
    for j in np.argsort(stop, kind="stable"):
        before = int(np.where(joins[:, j], nodes, 0).max(initial=0))
        if before:
            nodes[j] = max(nodes[j], before + 1)
    return int(nodes[last].max(initial=0))
