"""The paper's flow graph as pure data, and its construction from a placement.

Source: Helix (arXiv 2406.01566), section 4.1. A node that holds layers ``[s, e)`` is an edge ``in → out`` whose
capacity is its throughput with ``e − s`` layers. ``source → i`` exists iff ``s_i = 0``, ``i → sink`` iff ``e_i = L``,
``i → j`` iff ``e_i = s_j`` or, with partial inference, ``s_j ≤ e_i < e_j``: the request then runs layers
``[e_i, e_j)`` only on ``j`` (``arcs``). The capacity of a link is its bandwidth over the bytes of a token, packed by
its codec. A limit on hops leaves links out, so that no way through the graph is longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import eq
from typing import overload

import numpy as np

from helix_df.graph.arcs import connect, joinable
from helix_df.graph.capacities import Floats, Ints
from helix_df.graph.link_classes import LinkClasses
from helix_df.graph.problem import COORDINATOR, Placement, Problem
from helix_df.layers import LayerRange

NOBODY = -1
"""In an ``EdgeTable``, the coordinator."""


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


@dataclass(frozen=True, slots=True, eq=False)
class EdgeTable(Sequence[FlowEdge]):
    """Edges as columns, since a fleet of 10,000 nodes has millions of them; each is made when it is asked for.

    ``tail`` and ``head`` are positions in ``names``, or ``NOBODY`` for the coordinator.
    """

    names: tuple[str, ...]
    tail: Ints
    head: Ints
    capacity: Floats
    latency_s: Floats

    @classmethod
    def of(cls, edges: Sequence[FlowEdge], names: tuple[str, ...]) -> EdgeTable:
        """The columns of edges between nodes of these names."""
        if isinstance(edges, EdgeTable) and edges.names == names:
            return edges
        place = {name: i for i, name in enumerate(names)} | {COORDINATOR: NOBODY}
        return cls(
            names,
            np.array([place[edge.tail] for edge in edges], dtype=np.int64),
            np.array([place[edge.head] for edge in edges], dtype=np.int64),
            np.array([edge.capacity for edge in edges], dtype=np.float64),
            np.array([edge.latency_s for edge in edges], dtype=np.float64),
        )

    def ends(self, edge: int) -> tuple[str, str]:
        """The names of an edge's tail and head."""
        return self._name(int(self.tail[edge])), self._name(int(self.head[edge]))

    def _name(self, position: int) -> str:
        return COORDINATOR if position == NOBODY else self.names[position]

    def __len__(self) -> int:
        return len(self.tail)

    @overload
    def __getitem__(self, index: int) -> FlowEdge: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[FlowEdge, ...]: ...

    def __getitem__(self, index: int | slice) -> FlowEdge | tuple[FlowEdge, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        return FlowEdge(*self.ends(index), float(self.capacity[index]), float(self.latency_s[index]))

    def __iter__(self) -> Iterator[FlowEdge]:
        columns = (self.tail.tolist(), self.head.tolist(), self.capacity.tolist(), self.latency_s.tolist())
        for tail, head, capacity, latency_s in zip(*columns, strict=True):
            yield FlowEdge(self._name(tail), self._name(head), capacity, latency_s)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]  # as any sequence that compares by what it holds


@dataclass(frozen=True, slots=True)
class FlowGraph:
    """Nodes in order of (start, stop, name) and the edges between them."""

    num_layers: int
    nodes: tuple[FlowNode, ...]
    edges: Sequence[FlowEdge]

    @property
    def table(self) -> EdgeTable:
        """The edges as columns, by positions in ``nodes``."""
        return EdgeTable.of(self.edges, tuple(node.name for node in self.nodes))

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


def _edges(problem: Problem, nodes: tuple[FlowNode, ...]) -> EdgeTable:
    """The edges from the source, between nodes by tail and head, and to the sink."""
    start = np.array([node.layers.start for node in nodes], dtype=np.int64)
    stop = np.array([node.layers.stop for node in nodes], dtype=np.int64)
    names = tuple(node.name for node in nodes)
    position = {node.name: i for i, node in enumerate(problem.nodes)}
    place = np.array([position[name] for name in names], dtype=np.int64)
    links = LinkClasses(problem)
    # Links that carry nothing stay in the graph: who explains a plan asks what it would be were they fast.
    joins = joinable(start, stop, problem.partial_inference) & links.declared(place)
    enters = np.array([problem.links.find(COORDINATOR, name) is not None for name in names], dtype=np.bool_)
    leaves = np.array([problem.links.find(name, COORDINATOR) is not None for name in names], dtype=np.bool_)
    arcs = connect(start, stop, problem.num_layers, joins, enters, leaves, problem.limits.max_hops)
    first = _numbers(problem, [(COORDINATOR, names[i]) for i in arcs.first.tolist()])
    last = _numbers(problem, [(names[i], COORDINATOR) for i in arcs.last.tolist()])
    return EdgeTable(
        names,
        np.concatenate([np.full(len(arcs.first), NOBODY), arcs.tail, arcs.last]),
        np.concatenate([arcs.first, arcs.head, np.full(len(arcs.last), NOBODY)]),
        np.concatenate([first[0], links.rates(place[arcs.tail], place[arcs.head]), last[0]]),
        np.concatenate([first[1], _latencies(problem, names, links.code[place], arcs.tail, arcs.head), last[1]]),
    )


def _numbers(problem: Problem, links: Sequence[tuple[str, str]]) -> tuple[Floats, Floats]:
    """Tokens/s and seconds of some links."""
    rates = [problem.link_capacity(*ends) for ends in links]
    return np.array(rates), np.array([_latency_s(problem, *ends) for ends in links])


def _latencies(problem: Problem, names: Sequence[str], code: Ints, tails: Ints, heads: Ints) -> Floats:
    """Seconds of links between nodes; all nodes of two classes share one link, so it is looked up once."""
    classes = int(code.max(initial=0)) + 1
    pair = code[tails] * classes + code[heads]
    kinds, first, of = np.unique(pair, return_index=True, return_inverse=True)
    by_kind = [_latency_s(problem, names[tails[i]], names[heads[i]]) for i in first.tolist()]
    return np.array(by_kind, dtype=np.float64)[of.reshape(-1)] if len(kinds) else np.zeros(0)


def _latency_s(problem: Problem, tail: str, head: str) -> float:
    link = problem.links.find(tail, head)
    assert link is not None
    return link.latency_s
