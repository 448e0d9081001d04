"""Maximum flow, minimum cut and path decomposition of a flow graph.

The flow itself is OR-Tools' push-relabel, which works on integers; capacities are scaled to ``RESOLUTION`` tokens/s
so that flow and cut agree exactly, and an edge's capacity is never rounded up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ortools.graph.python import max_flow as ortools_max_flow

from helix_df.graph.flow_graph import FlowEdge, FlowGraph, build_graph
from helix_df.graph.problem import COORDINATOR, Placement, Problem
from helix_df.layers import LayerRange

RESOLUTION = 1e-6
"""Tokens/s of one unit of integer flow."""


@dataclass(frozen=True, slots=True)
class EdgeFlow:
    """Tokens/s that the maximum flow sends along one link."""

    tail: str
    head: str
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class MinCut:
    """What binds: saturated nodes and links whose capacities add up to the flow."""

    nodes: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    capacity: float


@dataclass(frozen=True, slots=True)
class Flow:
    """A maximum flow: its value in tokens/s, the flow of every used link, and a cut that proves it maximal."""

    value: float
    edges: tuple[EdgeFlow, ...]
    cut: MinCut

    def through(self, node: str) -> float:
        """Tokens/s that pass ``node``."""
        return sum(edge.tokens_per_s for edge in self.edges if edge.head == node)


@dataclass(frozen=True, slots=True)
class Hop:
    """One stage of a request's way: a node and the layers the request runs there."""

    node: str
    layers: LayerRange


@dataclass(frozen=True, slots=True)
class FlowPath:
    """A path of the decomposition and the tokens/s it carries."""

    hops: tuple[Hop, ...]
    tokens_per_s: float


class _Network:
    """Integer arcs of a flow graph: two vertices a node, source 0, sink 1."""

    def __init__(self, graph: FlowGraph) -> None:
        self.graph = graph
        self.entry = {COORDINATOR: 1} | {node.name: 2 + 2 * i for i, node in enumerate(graph.nodes)}
        self.exit = {COORDINATOR: 0} | {node.name: 3 + 2 * i for i, node in enumerate(graph.nodes)}
        node_units = [_units(node.capacity) for node in graph.nodes]
        # No flow exceeds what all nodes carry together, so clamping links to one more changes no cut and no overflow.
        ceiling = sum(node_units) + 1
        self.tails = [self.entry[node.name] for node in graph.nodes] + [self.exit[e.tail] for e in graph.edges]
        self.heads = [self.exit[node.name] for node in graph.nodes] + [self.entry[e.head] for e in graph.edges]
        self.units = node_units + [min(_units(edge.capacity), ceiling) for edge in graph.edges]


def _units(capacity: float) -> int:
    return int(min(capacity / RESOLUTION, 2**62))


def solve_max_flow(graph: FlowGraph) -> Flow:
    """The maximum flow from the coordinator, through all layers, back to the coordinator.

    Deterministic for a graph. An unreachable sink gives a flow of 0 whose cut says where the way ends.
    """
    network = _Network(graph)
    solver = ortools_max_flow.SimpleMaxFlow()
    arcs = solver.add_arcs_with_capacity(
        np.array(network.tails, dtype=np.int32),
        np.array(network.heads, dtype=np.int32),
        np.array(network.units, dtype=np.int64),
    )
    if not graph.edges:
        return Flow(0.0, (), MinCut((), (), 0.0))
    status = solver.solve(0, 1)
    if status != solver.OPTIMAL:
        raise AssertionError(f"max flow ended with {status} on a graph of {len(graph.nodes)} nodes")
    flows = solver.flows(arcs).tolist()
    source_side = set(solver.get_source_side_min_cut())
    edge_flows = flows[len(graph.nodes) :]
    edges = tuple(
        EdgeFlow(edge.tail, edge.head, units * RESOLUTION)
        for edge, units in zip(graph.edges, edge_flows, strict=True)
        if units > 0
    )
    return Flow(solver.optimal_flow() * RESOLUTION, edges, _min_cut(network, source_side))


def placement_flow(problem: Problem, placement: Placement) -> Flow:
    """The maximum flow of a placement: what every placement is judged by.

    Raises:
        KeyError, ValueError: as ``build_graph``.
    """
    return solve_max_flow(build_graph(problem, placement))


def _min_cut(network: _Network, source_side: set[int]) -> MinCut:
    # The source reaches vertices with residual capacity; vertices that no arc touches don't matter.
    source_side = source_side | {0}
    crossing = [
        arc
        for arc, (tail, head) in enumerate(zip(network.tails, network.heads, strict=True))
        if tail in source_side and head not in source_side
    ]
    count = len(network.graph.nodes)
    nodes = tuple(network.graph.nodes[arc].name for arc in crossing if arc < count)
    links = tuple(_ends(network.graph.edges[arc - count]) for arc in crossing if arc >= count)
    return MinCut(nodes, links, sum(network.units[arc] for arc in crossing) * RESOLUTION)


def _ends(edge: FlowEdge) -> tuple[str, str]:
    return edge.tail, edge.head


def decompose(layers: Placement, edges: tuple[EdgeFlow, ...]) -> tuple[FlowPath, ...]:
    """Split a flow over placed layers into paths from coordinator to coordinator, the widest next link first.

    Every path exhausts one link's remaining flow, so there are at most as many paths as links. Layer positions only
    grow along a link, hence the flow has no cycles and the paths carry all of it.
    """
    remaining: dict[str, dict[str, int]] = {}
    for edge in edges:
        remaining.setdefault(edge.tail, {})[edge.head] = round(edge.tokens_per_s / RESOLUTION)
    paths = []
    while remaining.get(COORDINATOR):
        names, units = _widest_path(remaining)
        for tail, head in zip([COORDINATOR, *names], [*names, COORDINATOR], strict=True):
            remaining[tail][head] -= units
            if remaining[tail][head] == 0:
                del remaining[tail][head]
        paths.append(FlowPath(hops_of(names, layers), units * RESOLUTION))
    return tuple(sorted(paths, key=lambda path: (-path.tokens_per_s, [hop.node for hop in path.hops])))


def _widest_path(remaining: dict[str, dict[str, int]]) -> tuple[list[str], int]:
    names: list[str] = []
    here, width = COORDINATOR, 2**63
    while True:
        head, units = max(remaining[here].items(), key=lambda item: (item[1], item[0]))
        width = min(width, units)
        if head == COORDINATOR:
            return names, width
        names.append(head)
        here = head


def hops_of(names: Sequence[str], layers: Placement) -> tuple[Hop, ...]:
    """The stages of a path: each node runs from where the one before stopped to its own end."""
    hops = []
    position = 0
    for name in names:
        hops.append(Hop(name, LayerRange(position, layers[name].stop)))
        position = layers[name].stop
    return tuple(hops)
