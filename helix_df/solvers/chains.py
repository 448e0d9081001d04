"""Pipelines: ways to split the layers along a chain of nodes.

Owns what the hand-made baselines share. Doesn't know flows: a chain's worth is for the max flow to judge.
"""

from __future__ import annotations

from collections.abc import Sequence

from helix_df.graph.problem import NodeProfile, Placement, Problem
from helix_df.layers import LayerRange
from helix_df.solvers.chain_search import ChainFinder


def usable_nodes(problem: Problem) -> tuple[NodeProfile, ...]:
    """Nodes that hold at least one layer."""
    return tuple(node for node in problem.nodes if node.max_layers)


def even_lengths(limits: Sequence[int], num_layers: int) -> tuple[int, ...] | None:
    """Layers for each place of a chain, as equal as the limits allow; ``None`` when they don't all fit.

    What is clipped from one place is shared by the others. When there are more places than layers the last ones get 0.
    """
    if sum(limits) < num_layers:
        return None
    level = next(level for level in range(num_layers + 1) if sum(min(limit, level) for limit in limits) >= num_layers)
    lengths = [min(limit, level) for limit in limits]
    surplus = sum(lengths) - num_layers
    for place in reversed(range(len(limits))):
        if surplus and lengths[place] == level:
            lengths[place] -= 1
            surplus -= 1
    return tuple(lengths)


def balanced_lengths(problem: Problem, nodes: Sequence[NodeProfile]) -> tuple[int, ...] | None:
    """Layers for each node of a chain such that the slowest node is as fast as possible; ``None`` if they don't fit.

    The best flow of a chain is the largest ``F`` with ``Σ_i max{k : T_i(k) ≥ F} ≥ L``: found among the values of the
    tables by bisection. Layers that are too many are taken from the slowest nodes.
    """
    tables = [[problem.node_capacity(node, k) for k in range(1, node.max_layers + 1)] for node in nodes]
    if sum(len(table) for table in tables) < problem.num_layers:
        return None

    def most_layers(flow: float) -> list[int]:
        return [max((k for k, speed in enumerate(table, start=1) if speed >= flow), default=0) for table in tables]

    speeds = sorted({speed for table in tables for speed in table})
    low, high = 0, len(speeds) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if sum(most_layers(speeds[middle])) >= problem.num_layers else (low, middle - 1)
    lengths = most_layers(speeds[low])
    for _ in range(sum(lengths) - problem.num_layers):
        slowest = min((i for i in range(len(lengths)) if lengths[i]), key=lambda i: (tables[i][lengths[i] - 1], i))
        lengths[slowest] -= 1
    return tuple(lengths)


def balanced_chain(problem: Problem, nodes: Sequence[NodeProfile]) -> Placement:
    """One pipeline over ``nodes`` whose slowest node is as fast as possible; empty when none is found.

    Nodes that would only slow it down are left out, and the chain is looked for again without them.
    """
    finder = ChainFinder(problem)
    while True:
        chain = finder.find(nodes, at_most=problem.num_layers)
        lengths = balanced_lengths(problem, chain) if chain else None
        if not chain or not lengths:
            return {}
        if all(lengths):
            return lay_out(chain, lengths)
        nodes = [node for node, length in zip(chain, lengths, strict=True) if length]


def lay_out(nodes: Sequence[NodeProfile], lengths: Sequence[int]) -> Placement:
    """The placement of a chain: consecutive ranges of these lengths; a length of 0 leaves the node out."""
    placement = {}
    position = 0
    for node, length in zip(nodes, lengths, strict=True):
        if length:
            placement[node.name] = LayerRange(position, position + length)
            position += length
    return placement
