"""Links that are full, and what doubling each would bring, by the exact max flow of the same placement."""

from __future__ import annotations

from dataclasses import dataclass, replace

from helix_df.graph.flow import Flow
from helix_df.graph.flow_graph import FlowGraph
from helix_df.graph.max_flow import solve_max_flow

FULL = 1 - 1e-6
"""Share of a link's capacity from which it counts as full; capacities are rounded to millionths of a token/s."""


@dataclass(frozen=True, slots=True)
class FullLink:
    """A link at its capacity, in tokens/s, and the flow with twice that capacity; ``in_cut`` when it is a bottleneck.

    A link that is full and in no minimum cut gains nothing: its traffic has other ways to grow, or another limit.
    """

    tail: str
    head: str
    capacity: float
    in_cut: bool
    doubled_flow: float


def full_links(graph: FlowGraph, flow: Flow) -> tuple[FullLink, ...]:
    """Every link that ``flow``, the graph's maximum, fills; the one worth most first.

    A link outside the cut isn't solved again: the cut still proves that no more flows.
    """
    carried = {(edge.tail, edge.head): edge.tokens_per_s for edge in flow.edges}
    cut = frozenset(flow.cut.links)
    links = []
    for edge in graph.edges:
        pair = (edge.tail, edge.head)
        if pair in cut or carried.get(pair, 0.0) >= edge.capacity * FULL:
            doubled = doubled_flow(graph, *pair) if pair in cut or pair[::-1] in cut else flow.value
            links.append(FullLink(*pair, edge.capacity, pair in cut, doubled))
    return tuple(sorted(links, key=lambda link: (-link.doubled_flow, not link.in_cut, link.tail, link.head)))


def doubled_flow(graph: FlowGraph, a: str, b: str) -> float:
    """The max flow in tokens/s when the link between ``a`` and ``b`` carries twice as much, in both directions."""
    edges = tuple(
        replace(edge, capacity=2 * edge.capacity) if {edge.tail, edge.head} == {a, b} else edge for edge in graph.edges
    )
    return solve_max_flow(replace(graph, edges=edges)).value
