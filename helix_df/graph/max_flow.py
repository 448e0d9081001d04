"""Maximum flow and minimum cut of a flow graph.

The flow itself is OR-Tools' push-relabel, which works on integers; capacities are counted in units of
``RESOLUTION`` tokens/s so that flow and cut agree exactly, and an edge's capacity is never rounded up.
"""

from __future__ import annotations

import numpy as np
from ortools.graph.python import max_flow as ortools_max_flow

from helix_df.graph.flow import RESOLUTION, EdgeFlow, Flow, MinCut
from helix_df.graph.flow_graph import FlowEdge, FlowGraph, build_graph
from helix_df.graph.problem import COORDINATOR, Placement, Problem


class Network:
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
    network = Network(graph)
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


def _min_cut(network: Network, source_side: set[int]) -> MinCut:
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
