"""What links carry, class by class: nodes of one region share their links, unless a link of their own says otherwise.

Owns the translation of ``LinkTable`` into arrays whose size doesn't grow with the square of the nodes, and the sums and
rankings over all pairs that bounds and sites need. Doesn't know placements.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from helix_df.graph.problem import COORDINATOR, Link, Problem

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class LinkClasses:
    """Tokens/s of links by classes of nodes; nodes are positions in ``problem.nodes``.

    ``code[i]`` is node ``i``'s class: its region, or one of its own if it has links of its own to other nodes.
    ``between[c, d]`` is what a node of class ``c`` sends one of class ``d``, 0 where there is no link; ``enters[i]``
    what the coordinator sends node ``i``, and ``leaves[i]`` what that sends back. The same numbers as
    ``Problem.link_capacity``.
    """

    def __init__(self, problem: Problem) -> None:
        table, names = problem.links, [node.name for node in problem.nodes]
        place = {name: i for i, name in enumerate(names)}
        own = [pair for pair in table.by_node if pair[0] in place and pair[1] in place]
        singles = sorted({place[name] for pair in own for name in pair})
        regions = sorted({table.regions[name] for name in names})
        row = {region: c for c, region in enumerate(regions)}
        self.code: Ints = np.array([row[table.regions[name]] for name in names], dtype=np.int64)
        region_of = np.concatenate([np.arange(len(regions)), self.code[singles]])
        self.code[singles] = len(regions) + np.arange(len(singles))
        by_region, declared = np.zeros((len(regions), len(regions))), np.zeros((len(regions), len(regions)), np.bool_)
        for a, first in enumerate(regions):
            for b, second in enumerate(regions):
                link = table.between(first, second)
                by_region[a, b], declared[a, b] = _activations(problem, link), link is not None
        self.between: Floats = by_region[np.ix_(region_of, region_of)]
        self._declared: Bools = declared[np.ix_(region_of, region_of)]
        for pair in own:
            i, j = self.code[place[pair[0]]], self.code[place[pair[1]]]
            self.between[i, j] = _activations(problem, table.by_node[pair])
            self._declared[i, j] = True
        self._linked: Bools = np.asarray(self.between > 0)
        home = table.regions[COORDINATOR]
        inward = {region: _tokens(problem, table.between(home, region)) for region in regions}
        outward = {region: _tokens(problem, table.between(region, home)) for region in regions}
        self.enters: Floats = np.array([inward[table.regions[name]] for name in names], dtype=np.float64)
        self.leaves: Floats = np.array([outward[table.regions[name]] for name in names], dtype=np.float64)
        for (tail, head), link in table.by_node.items():
            if tail == COORDINATOR and head in place:
                self.enters[place[head]] = _tokens(problem, link)
            elif head == COORDINATOR and tail in place:
                self.leaves[place[tail]] = _tokens(problem, link)

    @property
    def counts(self) -> Ints:
        """Nodes of each class."""
        return np.bincount(self.code, minlength=len(self.between))

    def block(self, nodes: Ints) -> Bools:
        """``[i, j]``: whether there is a link from one of these nodes to another."""
        return self._pairs(self._linked, nodes)

    def declared(self, nodes: Ints) -> Bools:
        """``[i, j]``: whether a link from one of these nodes to another is declared, even if it carries nothing."""
        return self._pairs(self._declared, nodes)

    def _pairs(self, of_classes: Bools, nodes: Ints) -> Bools:
        code = self.code[nodes]
        pairs: Bools = of_classes[code[:, None], code]
        np.fill_diagonal(pairs, val=False)
        return pairs

    def rates(self, tails: Ints, heads: Ints) -> Floats:
        """Tokens/s of links between different nodes."""
        rates: Floats = self.between[self.code[tails], self.code[heads]]
        return rates

    def into(self) -> Floats:
        """Tokens/s of all links to a node from other nodes together."""
        return self._sums(self.between.T)

    def out_of(self) -> Floats:
        """Tokens/s of all links from a node to other nodes together."""
        return self._sums(self.between)

    def sums(self) -> Floats:
        """Tokens/s of all of a node's links with other nodes together, each in its better direction."""
        return self._sums(np.maximum(self.between, self.between.T))

    def _sums(self, between: Floats) -> Floats:
        sums: Floats = (between @ self.counts - np.diagonal(between))[self.code]
        return sums

    def reached(self, usable: Bools) -> Bools:
        """Usable nodes that a request can get to from the coordinator, and from there back, over other usable nodes."""
        return self._joined(usable, self.enters, self._linked) & self._joined(usable, self.leaves, self._linked.T)

    def _joined(self, usable: Bools, coordinator: Floats, linked: Bools) -> Bools:
        reached = usable & (coordinator > 0)
        frontier = reached
        while frontier.any():
            joined: Bools = np.asarray(linked[np.unique(self.code[frontier])].any(axis=0))
            frontier = joined[self.code] & usable & ~reached
            reached = reached | frontier
        return reached

    def apart(self, nodes: Ints, site: Ints) -> tuple[Floats, Ints]:
        """Tokens/s of links from some nodes to others of another ``site``, the better direction of each; and how many
        are so.

        ``site`` has an entry for every node of the problem.
        """
        cells, counts = np.unique(np.stack([self.code[nodes], site[nodes]]), axis=1, return_counts=True)
        code, group = cells
        rates = np.triu(np.maximum(self.between, self.between.T)[code[:, None], code], 1)
        tails, heads = np.nonzero((rates > 0) & (group[:, None] != group))
        return rates[tails, heads], counts[tails] * counts[heads]

    def groups(self, nodes: Ints, least: float) -> list[Ints]:
        """Nodes in groups joined by links of ``least`` tokens/s in both directions, by their first nodes."""
        code = self.code[nodes]
        near = np.minimum(self.between, self.between.T) >= least
        # A class of one node, or whose nodes aren't near each other, may still be joined by another class.
        present = np.bincount(code, minlength=len(near)) > 0
        alone = ~np.diagonal(near) & ~(near & present & ~np.eye(len(near), dtype=np.bool_)).any(axis=1)
        joined = np.arange(len(near))
        for c in np.flatnonzero(present).tolist():
            members = present & near[c]
            members[c] = True
            lowest = int(joined[members].min())
            joined[np.isin(joined, joined[members])] = lowest
        group = np.where(alone[code], len(near) + np.arange(len(nodes)), joined[code])
        firsts = np.unique(group, return_index=True)
        order = np.argsort(firsts[1])
        return [nodes[group == firsts[0][g]] for g in order.tolist()]

    def among(self, nodes: Ints, others: Ints | None = None) -> tuple[Floats, Ints]:
        """Tokens/s of links among some nodes, or from them to ``others``, and how many ordered pairs have as much.

        Pairs without a link count with 0 tokens/s; a node and itself are no pair.
        """
        here = np.bincount(self.code[nodes], minlength=len(self.between))
        there = here if others is None else np.bincount(self.code[others], minlength=len(self.between))
        pairs = here[:, None] * there[None, :]
        if others is None:
            pairs -= np.diag(here)
        used = pairs > 0
        return self.between[used], pairs[used]


def _activations(problem: Problem, link: Link | None) -> float:
    return link.bytes_per_s / problem.packed_bytes(link.codec) if link is not None else 0.0


def _tokens(problem: Problem, link: Link | None) -> float:
    return link.bytes_per_s / problem.token_bytes if link is not None else 0.0
