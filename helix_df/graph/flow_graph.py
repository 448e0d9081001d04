"""The paper's flow graph as pure data, and its construction from a placement.

Source: Helix (arXiv 2406.01566), section 4.1. A node that holds layers ``[s, e)`` is an edge ``in → out`` whose
capacity is its throughput with ``e − s`` layers. ``source → i`` exists iff ``s_i = 0``, ``i → sink`` iff ``e_i = L``,
``i → j`` iff ``e_i = s_j`` or, with partial inference, ``s_j ≤ e_i < e_j``: the request then runs layers
``[e_i, e_j)`` only on ``j`` (``arcs``). The capacity of a link is its bandwidth over the bytes of a token, packed by
its codec. A limit on hops leaves links out, so that no way through the graph is longer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from helix_df.graph.arcs import connect, joinable
from helix_df.graph.link_classes import LinkClasses
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

    def renamed(self, new: Callable[[str], str]) -> FlowGraph:
        """The same graph, in the same order, under other names; ``new`` keeps the coordinator's."""
        nodes = tuple(replace(node, name=new(node.name)) for node in self.nodes)
        edges = tuple(replace(edge, tail=new(edge.tail), head=new(edge.head)) for edge in self.edges)
        return FlowGraph(self.num_layers, nodes, edges)


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
    edges = _edges(problem, nodes)
    return FlowGraph(problem.num_layers, nodes, edges)


def _edges(problem: Problem, nodes: tuple[FlowNode, ...]) -> tuple[FlowEdge, ...]:
    """The edges from the source, between nodes by tail and head, and to the sink."""
    start = np.array([node.layers.start for node in nodes], dtype=np.int64)
    stop = np.array([node.layers.stop for node in nodes], dtype=np.int64)
    names = [node.name for node in nodes]
    position = {node.name: i for i, node in enumerate(problem.nodes)}
    place = np.array([position[name] for name in names], dtype=np.int64)
    links = LinkClasses(problem)
    # Links that carry nothing stay in the graph: who explains a plan asks what it would be were they fast.
    joins = joinable(start, stop, problem.partial_inference) & links.declared(place)
    enters = np.array([problem.links.find(COORDINATOR, name) is not None for name in names], dtype=np.bool_)
    arcs = connect(start, stop, problem.num_layers, joins, enters, problem.limits.max_hops)
    tails, heads = arcs.tail.tolist(), arcs.head.tolist()
    rates = links.rates(place[arcs.tail], place[arcs.head]).tolist()
    # All nodes of two classes share one link, so it is looked up once.
    latency: dict[tuple[int, int], float] = {}
    classes = zip(links.code[place[arcs.tail]].tolist(), links.code[place[arcs.head]].tolist(), strict=True)
    edges = []
    for tail, head, rate, pair in zip(tails, heads, rates, classes, strict=True):
        if pair not in latency:
            latency[pair] = _latency_s(problem, names[tail], names[head])
        edges.append(FlowEdge(names[tail], names[head], rate, latency[pair]))
    return (
        *(_coordinator_edge(problem, COORDINATOR, names[i]) for i in arcs.first.tolist()),
        *edges,
        *(_coordinator_edge(problem, names[i], COORDINATOR) for i in arcs.last.tolist()),
    )


def _coordinator_edge(problem: Problem, tail: str, head: str) -> FlowEdge:
    return FlowEdge(tail, head, problem.link_capacity(tail, head), _latency_s(problem, tail, head))


def _latency_s(problem: Problem, tail: str, head: str) -> float:
    link = problem.links.find(tail, head)
    assert link is not None
    return link.latency_s
