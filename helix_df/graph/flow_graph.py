"""The paper's flow graph as pure data, and its construction from a placement.

Source: Helix (arXiv 2406.01566), section 4.1. A node that holds layers ``[s, e)`` is an edge ``in → out`` whose
capacity is its throughput with ``e − s`` layers. ``source → i`` exists iff ``s_i = 0``, ``i → sink`` iff ``e_i = L``,
``i → j`` iff ``e_i = s_j`` or, with partial inference, ``s_j ≤ e_i < e_j``: the request then runs layers
``[e_i, e_j)`` only on ``j``. The capacity of a link is its bandwidth over the bytes of a token, packed by its
codec. A limit on hops leaves links out, so that no way through the graph is longer.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np

from helix_df.graph.limits import within_hops
from helix_df.graph.problem import COORDINATOR, Placement, Problem
from helix_df.layers import LayerRange


@dataclass(frozen=True, slots=True)
class FlowNode:
    """A node with the layers it holds and the tokens/s it serves with them."""

    name: str
    layers: LayerRange
    capacity: float


@dataclass(frozen=True, slots=True)
class FlowEdge:
    """A link that a request may take; ``COORDINATOR`` is the source as ``tail`` and the sink as ``head``."""

    tail: str
    head: str
    capacity: float
    latency_s: float


@dataclass(frozen=True, slots=True)
class FlowGraph:
    """Nodes in order of (start, stop, name) and the edges between them."""

    num_layers: int
    nodes: tuple[FlowNode, ...]
    edges: tuple[FlowEdge, ...]


def connects(upstream: LayerRange, downstream: LayerRange, partial: bool) -> bool:
    """Whether a request that has been through ``upstream`` can go on in ``downstream``."""
    if partial:
        return downstream.start <= upstream.stop < downstream.stop
    return upstream.stop == downstream.start


def build_graph(problem: Problem, placement: Placement) -> FlowGraph:
    """The flow graph of a placement; nodes the placement leaves out are absent.

    Raises:
        KeyError: for a node the problem doesn't have.
        ValueError: for more layers than fit on a node.
    """
    profiles = {node.name: node for node in problem.nodes}
    nodes = tuple(
        FlowNode(name, layers, problem.node_capacity(profiles[name], len(layers)))
        for name, layers in sorted(placement.items(), key=lambda item: (item[1], item[0]))
    )
    edges = tuple(
        edge
        for tail, head in _hops(nodes, problem.num_layers, problem.partial_inference)
        if (edge := _edge(problem, tail, head)) is not None
    )
    if problem.limits.max_hops is not None:
        edges = _shallow(nodes, edges, problem.limits.max_hops)
    return FlowGraph(problem.num_layers, nodes, edges)


def _shallow(nodes: tuple[FlowNode, ...], edges: tuple[FlowEdge, ...], max_hops: int) -> tuple[FlowEdge, ...]:
    """The edges that a limit on hops leaves (``within_hops``)."""
    place = {node.name: i for i, node in enumerate(nodes)}
    joins = np.zeros((len(nodes), len(nodes)), dtype=np.bool_)
    first, last = np.zeros(len(nodes), dtype=np.bool_), np.zeros(len(nodes), dtype=np.bool_)
    for edge in edges:
        if edge.tail == COORDINATOR:
            first[place[edge.head]] = True
        elif edge.head == COORDINATOR:
            last[place[edge.tail]] = True
        else:
            joins[place[edge.tail], place[edge.head]] = True
    stop = np.array([node.layers.stop for node in nodes], dtype=np.int64)
    joins, last = within_hops(joins, first, last, stop, max_hops)

    def stays(edge: FlowEdge) -> bool:
        if edge.head == COORDINATOR:
            return bool(last[place[edge.tail]])
        return edge.tail == COORDINATOR or bool(joins[place[edge.tail], place[edge.head]])

    return tuple(edge for edge in edges if stays(edge))


def _hops(nodes: tuple[FlowNode, ...], num_layers: int, partial: bool) -> list[tuple[str, str]]:
    """Pairs of endpoints whose layers connect. ``nodes`` are sorted by start, so candidates are a slice."""
    hops = [(COORDINATOR, node.name) for node in nodes if node.layers.start == 0]
    starts = [node.layers.start for node in nodes]
    for tail in nodes:
        first = 0 if partial else bisect_left(starts, tail.layers.stop)
        last = bisect_left(starts, tail.layers.stop + 1)
        hops += [
            (tail.name, head.name)
            for head in nodes[first:last]
            if head is not tail and connects(tail.layers, head.layers, partial)
        ]
    hops += [(node.name, COORDINATOR) for node in nodes if node.layers.stop == num_layers]
    return hops


def _edge(problem: Problem, tail: str, head: str) -> FlowEdge | None:
    link = problem.links.find(tail, head)
    if link is None:
        return None
    token_bytes = problem.token_bytes if COORDINATOR in (tail, head) else problem.packed_bytes(link.codec)
    return FlowEdge(tail, head, link.bytes_per_s / token_bytes, link.latency_s)
