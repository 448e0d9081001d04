"""Orders of nodes that links allow: chains from the coordinator, over the best links, back to it.

Owns the search, and rankings of links by classes of nodes, so that 10,000 nodes take seconds. Doesn't know layers
beyond how many fit (``chains`` splits them), nor flows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from helix_df.graph.capacities import Ints
from helix_df.graph.link_classes import LinkClasses
from helix_df.graph.problem import COORDINATOR, NodeProfile, Problem

LOOKUPS = 500_000
"""Links that the search for a chain looks at beyond a first walk before it gives up: about half a second."""

REMEMBERED = 512
"""Classes of nodes whose ranking of the others is remembered."""


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


class ChainFinder:
    """Finds chains among nodes of one problem, many times."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.place = {node.name: i for i, node in enumerate(problem.nodes)}
        links = LinkClasses(problem)
        self.code, self.leaves = links.code, links.leaves > 0
        order = np.argsort(self.code, kind="stable")
        classes, first = np.unique(self.code[order], return_index=True)
        # Two nodes of each class, to look its links up by.
        self._samples = {
            int(c): [problem.nodes[i].name for i in order[at : at + 2] if self.code[i] == c]
            for c, at in zip(classes.tolist(), first.tolist(), strict=True)
        }
        self.ranks = lru_cache(maxsize=REMEMBERED)(self._ranks)

    def find(self, nodes: Sequence[NodeProfile], at_most: int | None = None) -> tuple[NodeProfile, ...] | None:
        """An order of ``nodes`` in which each is linked to the next, the ends to the coordinator, and all layers fit.

        Goes to the best linked node next (capacity, then latency), so neighbours in a region stay together, and
        backtracks at dead ends; of the chains met on the way the first that can't be extended wins. Some nodes may be
        left out, and no more than ``at_most`` are taken. ``None`` when the search found none, which doesn't prove that
        none exists.
        """
        if sum(node.max_layers for node in nodes) < self.problem.num_layers:
            return None
        return _ChainSearch(self, nodes, len(nodes) if at_most is None else at_most).run()

    def _ranks(self, c: int) -> Ints:
        """By class: how well nodes of class ``c`` are linked to its nodes, 0 for the best; -1 for no link."""
        found: dict[int, tuple[float, float]] = {}
        here = self._samples[c][0]
        for d, names in self._samples.items():
            others = [name for name in names if name != here]
            link = self.problem.links.find(here, others[0]) if others else None
            if link is not None and link.bytes_per_s > 0:
                found[d] = (-link.bytes_per_s, link.latency_s)
        place = {key: rank for rank, key in enumerate(sorted(set(found.values())))}
        ranks = np.full(max(self._samples) + 1, -1, dtype=np.int64)
        for d, key in found.items():
            ranks[d] = place[key]
        return ranks


def find_chain(
    problem: Problem, nodes: Sequence[NodeProfile], at_most: int | None = None
) -> tuple[NodeProfile, ...] | None:
    """``ChainFinder.find``, once."""
    return ChainFinder(problem).find(nodes, at_most)


@dataclass(slots=True)
class _WaysOn:
    """Where to go next from a node: nodes in tiers, the best first, and how far they have been tried."""

    tiers: Sequence[Ints]
    tier: int = 0
    tried: int = 0


class _ChainSearch:
    """Depth-first search over chains, each step to the best linked node that is left. Nodes are positions in a list."""

    def __init__(self, finder: ChainFinder, nodes: Sequence[NodeProfile], at_most: int) -> None:
        self.finder, self.nodes, self.at_most = finder, nodes, at_most
        place = [finder.place[node.name] for node in nodes]
        self.code, self.leaves = finder.code[place], finder.leaves[place]
        self.left = np.ones(len(nodes), dtype=np.bool_)
        self.chain: list[int] = []
        self.layers = 0
        self._tiers: dict[int, list[Ints]] = {}

    def run(self) -> tuple[NodeProfile, ...] | None:
        options = [self._from_coordinator()]
        best = 0
        for _ in range(len(self.nodes) + LOOKUPS // len(self.nodes)):
            while options and (node := self._next(options[-1])) is None:
                if best:
                    return self._best(best)
                options.pop()
                if self.chain:
                    self._step_back()
            if not options or node is None:
                return None
            self.chain.append(node)
            self.left[node] = False
            self.layers += self.nodes[node].max_layers
            if self.leaves[node] and self.layers >= self.finder.problem.num_layers:
                best = len(self.chain)
            options.append(self._from_node(node))
        return self._best(best) if best else None

    def _best(self, length: int) -> tuple[NodeProfile, ...]:
        return tuple(self.nodes[node] for node in self.chain[:length])

    def _step_back(self) -> None:
        node = self.chain.pop()
        self.left[node] = True
        self.layers -= self.nodes[node].max_layers

    def _from_coordinator(self) -> _WaysOn:
        place = {node.name: p for p, node in enumerate(self.nodes)}
        ranked = rank_links(self.finder.problem, COORDINATOR, list(place))
        return _WaysOn([np.array([place[name] for name in reversed(ranked)], dtype=np.int64)])

    def _from_node(self, node: int) -> _WaysOn:
        if len(self.chain) == self.at_most:
            return _WaysOn([])
        c = int(self.code[node])
        if c not in self._tiers:
            ranks = self.finder.ranks(c)[self.code]
            tiers = [np.flatnonzero(ranks == rank) for rank in range(int(ranks.max()) + 1)]
            if len(self._tiers) >= REMEMBERED:
                self._tiers.clear()
            self._tiers[c] = tiers
        return _WaysOn(self._tiers[c])

    def _next(self, options: _WaysOn) -> int | None:
        """The best node that is left and wasn't tried, which counts as tried from now on."""
        while options.tier < len(options.tiers):
            tier = options.tiers[options.tier][options.tried :]
            free = self.left[tier]
            first = int(free.argmax()) if len(free) else 0
            if len(free) and free[first]:
                options.tried += first + 1
                return int(tier[first])
            options.tier, options.tried = options.tier + 1, 0
        return None
