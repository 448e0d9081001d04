"""Maximum flow and minimum cut of a flow graph.

The flow itself is OR-Tools' push-relabel, which works on integers; capacities are counted in units of
``RESOLUTION`` tokens/s so that flow and cut agree exactly, and an edge's capacity is never rounded up.
"""

from __future__ import annotations

import numpy as np
from ortools.graph.python import max_flow as ortools_max_flow

from helix_df.graph.arcs import SINK, SOURCE, clamped, entry, exit_of, to_units
from helix_df.graph.capacities import Ints
from helix_df.graph.flow import RESOLUTION, EdgeFlow, Flow, MinCut
from helix_df.graph.flow_graph import FlowEdge, FlowGraph, build_graph
from helix_df.graph.problem import COORDINATOR, Placement, Problem


class IntegerArcs:
    """Integer arcs of a flow graph: those of its nodes, then those of its edges."""

    def __init__(self, graph: FlowGraph) -> None:
        self.graph = graph
        place = {node.name: i for i, node in enumerate(graph.nodes)}
        nodes, capacities = np.arange(len(graph.nodes)), [node.capacity for node in graph.nodes]
        leaves = [SOURCE if edge.tail == COORDINATOR else exit_of(place[edge.tail]) for edge in graph.edges]
        comes = [SINK if edge.head == COORDINATOR else entry(place[edge.head]) for edge in graph.edges]
        self.tails = np.concatenate([entry(nodes), np.array(leaves, dtype=np.int64)])
        self.heads = np.concatenate([exit_of(nodes), np.array(comes, dtype=np.int64)])
        units = to_units(np.array([*capacities, *(edge.capacity for edge in graph.edges)]))
        self.units = clamped(units, len(nodes))


def solve_arcs(tails: Ints, heads: Ints, units: Ints, nodes: int) -> ortools_max_flow.SimpleMaxFlow:
    """OR-Tools' push-relabel on arcs between vertices, those of the ``nodes`` nodes first; solved.

    Arcs are numbered as they stand.
    """
    solver = ortools_max_flow.SimpleMaxFlow()
    solver.add_arcs_with_capacity(tails.astype(np.int32), heads.astype(np.int32), clamped(units, nodes))
    status = solver.solve(SOURCE, SINK)
    if status != solver.OPTIMAL:
        raise AssertionError(f"max flow ended with {status} on {nodes} nodes")
    return solver


def solve_max_flow(graph: FlowGraph) -> Flow:
    """The maximum flow from the coordinator, through all layers, back to the coordinator.

    Deterministic for a graph. An unreachable sink gives a flow of 0 whose cut says where the way ends.
    """
    if not graph.edges:
        return Flow(0.0, (), MinCut((), (), 0.0))
    arcs = IntegerArcs(graph)
    solver = solve_arcs(arcs.tails, arcs.heads, arcs.units, len(graph.nodes))
    flows = solver.flows(np.arange(len(arcs.units))).tolist()
    source_side = set(solver.get_source_side_min_cut())
    edge_flows = flows[len(graph.nodes) :]
    edges = tuple(
        EdgeFlow(edge.tail, edge.head, units * RESOLUTION)
        for edge, units in zip(graph.edges, edge_flows, strict=True)
        if units > 0
    )
    return Flow(solver.optimal_flow() * RESOLUTION, edges, _min_cut(arcs, source_side))


def placement_flow(problem: Problem, placement: Placement) -> Flow:
    """The maximum flow of a placement: what every placement is judged by.

    Raises:
        KeyError, ValueError: as ``build_graph``.
    """
    return solve_max_flow(build_graph(problem, placement))


def _min_cut(arcs: IntegerArcs, source_side: set[int]) -> MinCut:
    # The source reaches vertices with residual capacity; vertices that no arc touches don't matter.
    source_side = source_side | {SOURCE}
    crossing = [
        arc
        for arc, (tail, head) in enumerate(zip(arcs.tails.tolist(), arcs.heads.tolist(), strict=True))
        if tail in source_side and head not in source_side
    ]
    count = len(arcs.graph.nodes)
    nodes = tuple(arcs.graph.nodes[arc].name for arc in crossing if arc < count)
    links = tuple(_ends(arcs.graph.edges[arc - count]) for arc in crossing if arc >= count)
    return MinCut(nodes, links, int(arcs.units[crossing].sum()) * RESOLUTION)


def _ends(edge: FlowEdge) -> tuple[str, str]:
    return edge.tail, edge.head
