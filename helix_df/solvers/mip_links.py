"""Which links the MILP sees: the paper's pruning, which keeps the model small.

Owns the choice of pairs. Doesn't know variables or backends.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from itertools import combinations

from helix_df.graph.problem import NodeProfile, Problem

Pair = tuple[int, int]
"""Two positions in the list of nodes, the smaller first; the links between them in both directions."""


def all_pairs(problem: Problem, nodes: Sequence[NodeProfile]) -> list[Pair]:
    """Every two nodes with a link between them, in one direction at least."""
    return [
        (a, b)
        for a, b in combinations(range(len(nodes)), 2)
        if problem.link_capacity(nodes[a].name, nodes[b].name) > 0
        or problem.link_capacity(nodes[b].name, nodes[a].name) > 0
    ]


def prune(
    problem: Problem,
    nodes: Sequence[NodeProfile],
    pairs: Sequence[Pair],
    limit: int,
    keep: Iterable[Pair],
    seed: int,
) -> list[Pair]:
    """About the ``limit`` best links of every node, by capacity, then latency, then chance (so cliques don't form).

    Source: the speed-ups of the Helix paper (arXiv 2406.01566, section 4.5), which drops slow links down to 12 a node.
    The pairs in ``keep`` and a spanning tree of the best links stay whatever the limit, so nothing is cut off; the
    links to the coordinator are not among the pairs and always stay. A limit of 0 keeps all.
    """
    if limit == 0:
        return list(pairs)
    chance = random.Random(seed)
    rank = {}
    for a, b in pairs:
        ends = nodes[a].name, nodes[b].name
        links = [link for link in (problem.links.find(*ends), problem.links.find(*ends[::-1])) if link is not None]
        rank[a, b] = (*min((-link.bytes_per_s, link.latency_s) for link in links), chance.random())
    best_first = sorted(pairs, key=rank.__getitem__)
    kept = {*keep, *_spanning_tree(best_first, len(nodes))}
    degree = [0] * len(nodes)
    for a, b in kept:
        degree[a] += 1
        degree[b] += 1
    for a, b in best_first:
        if (a, b) not in kept and degree[a] < limit and degree[b] < limit:
            kept.add((a, b))
            degree[a] += 1
            degree[b] += 1
    return sorted(kept)


def _spanning_tree(best_first: Sequence[Pair], count: int) -> list[Pair]:
    """The links that join separate groups of nodes, the best first (Kruskal)."""
    leader = list(range(count))

    def find(node: int) -> int:
        while leader[node] != node:
            leader[node] = leader[leader[node]]
            node = leader[node]
        return node

    tree = []
    for a, b in best_first:
        if find(a) != find(b):
            leader[find(a)] = find(b)
            tree.append((a, b))
    return tree
