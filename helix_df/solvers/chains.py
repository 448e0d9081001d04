"""Pipelines: orders of nodes that links allow, and ways to split the layers along one.

Owns what the hand-made baselines share. Doesn't know flows: a chain's worth is for the max flow to judge.
"""

from __future__ import annotations

from collections.abc import Sequence

from helix_df.graph.problem import COORDINATOR, NodeProfile, Placement, Problem
from helix_df.layers import LayerRange

LOOKUPS = 500_000
"""Links that the search for a chain looks at beyond a first walk before it gives up: about half a second."""


def usable_nodes(problem: Problem) -> tuple[NodeProfile, ...]:
    """Nodes that hold at least one layer."""
    return tuple(node for node in problem.nodes if node.max_layers)


def find_chain(
    problem: Problem, nodes: Sequence[NodeProfile], at_most: int | None = None
) -> tuple[NodeProfile, ...] | None:
    """An order of ``nodes`` in which each is linked to the next, the ends to the coordinator, and all layers fit.

    Goes to the best linked node next (capacity, then latency), so neighbours in a region stay together, and backtracks
    at dead ends; of the chains met on the way the first that can't be extended wins. Some nodes may be left out, and
    no more than ``at_most`` are taken. ``None`` when the search found none, which doesn't prove that none exists.
    """
    if sum(node.max_layers for node in nodes) < problem.num_layers:
        return None
    return _ChainSearch(problem, nodes, len(nodes) if at_most is None else at_most).run()


def rank_links(problem: Problem, here: str, names: Sequence[str]) -> list[str]:
    """Those of ``names`` that ``here`` is linked to, the best link last.

    By capacity, then latency; of equal ones the first of ``names`` is the best.
    """
    ranked: list[tuple[float, float, int, str]] = []
    for position, name in enumerate(names):
        link = problem.links.find(here, name)
        if link is not None and link.bytes_per_s > 0:
            ranked.append((link.bytes_per_s, -link.latency_s, -position, name))
    return [name for *_, name in sorted(ranked)]


class _ChainSearch:
    """Depth-first search over chains, each step to the best linked node that is left."""

    def __init__(self, problem: Problem, nodes: Sequence[NodeProfile], at_most: int) -> None:
        self.problem = problem
        self.at_most = at_most
        self.nodes = {node.name: node for node in nodes}
        self.exits = {name for name in self.nodes if problem.link_capacity(name, COORDINATOR) > 0}
        self.left = dict(self.nodes)
        self.chain: list[str] = []
        self.layers = 0

    def run(self) -> tuple[NodeProfile, ...] | None:
        options = [self._next(COORDINATOR)]
        best = 0
        for _ in range(len(self.nodes) + LOOKUPS // len(self.nodes)):
            while options and not options[-1]:
                if best:
                    return tuple(self.nodes[name] for name in self.chain[:best])
                options.pop()
                if self.chain:
                    self._step_back()
            if not options:
                return None
            name = options[-1].pop()
            self.chain.append(name)
            self.layers += self.left.pop(name).max_layers
            if name in self.exits and self.layers >= self.problem.num_layers:
                best = len(self.chain)
            options.append(self._next(name))
        return tuple(self.nodes[name] for name in self.chain[:best]) if best else None

    def _step_back(self) -> None:
        name = self.chain.pop()
        self.left[name] = self.nodes[name]
        self.layers -= self.nodes[name].max_layers

    def _next(self, here: str) -> list[str]:
        """Nodes to go to from ``here``, the best last."""
        if len(self.chain) == self.at_most:
            return []
        return rank_links(self.problem, here, list(self.left))


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
    while True:
        chain = find_chain(problem, nodes, at_most=problem.num_layers)
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
