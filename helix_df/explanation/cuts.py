"""Cuts as sets of vertices, and what they say about a node that is added to a placement.

Owns one argument. Any set of vertices that holds the source and not the sink bounds every flow by the capacity that
leaves the set. A node that is added raises this by no more than the cheapest way to put it on the two sides: before
both (what leads into it counts), after both (what leads out of it) or between (its own capacity). So a few cuts rule
out most ranges of a new node without a max flow. Doesn't search.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from helix_df.graph.flow import MinCut
from helix_df.graph.flow_graph import FlowGraph
from helix_df.graph.problem import COORDINATOR


@dataclass(frozen=True, slots=True)
class NewNode:
    """A node beside a placement: tokens/s through it, from each vertex into it, and from it to each vertex."""

    capacity: float
    into: Mapping[str, float]
    out_of: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Cut:
    """The source's side of a cut: nodes whose entry is in it, those whose exit is too, and the tokens/s that leave."""

    entered: frozenset[str]
    passed: frozenset[str]
    capacity: float

    def with_node(self, node: NewNode) -> float:
        """What no flow beside ``node`` exceeds, in tokens/s."""
        into = sum(capacity for tail, capacity in node.into.items() if tail in self.passed)
        out_of = sum(capacity for head, capacity in node.out_of.items() if head not in self.entered)
        return self.capacity + min(into, node.capacity, out_of)


def cut_of(graph: FlowGraph, entered: frozenset[str], passed: frozenset[str]) -> Cut:
    """A cut with its capacity in ``graph``; nodes that the graph doesn't have are dropped."""
    capacities = {node.name: node.capacity for node in graph.nodes}
    entered, passed = entered & capacities.keys(), (passed & capacities.keys()) | {COORDINATOR}
    leaving = sum(capacities[name] for name in entered - passed)
    leaving += sum(edge.capacity for edge in graph.edges if edge.tail in passed and edge.head not in entered)
    return Cut(entered, passed, leaving)


def source_side(graph: FlowGraph, cut: MinCut) -> tuple[frozenset[str], frozenset[str]]:
    """Nodes whose entry, and whose exit, the source reaches without crossing ``cut``."""
    cut_nodes, cut_links = frozenset(cut.nodes), frozenset(cut.links)
    heads: dict[str, list[str]] = {}
    for edge in graph.edges:
        if (edge.tail, edge.head) not in cut_links and edge.head != COORDINATOR:
            heads.setdefault(edge.tail, []).append(edge.head)
    entered: set[str] = set()
    passed: set[str] = set()
    frontier = [COORDINATOR]
    while frontier:
        for head in heads.get(frontier.pop(), ()):
            if head not in entered:
                entered.add(head)
                if head not in cut_nodes:
                    passed.add(head)
                    frontier.append(head)
    return frozenset(entered), frozenset(passed)
