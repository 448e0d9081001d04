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
from helix_df.graph.flow_graph import NOBODY, FlowGraph, build_graph
from helix_df.graph.problem import Placement, Problem


class IntegerArcs:
    """Integer arcs of a flow graph: those of its nodes, then those of its edges."""

    def __init__(self, graph: FlowGraph) -> None:
        self.graph = graph
        self.edges = edges = graph.table
        nodes, capacities = np.arange(len(graph.nodes)), np.array([node.capacity for node in graph.nodes])
        self.tails = np.concatenate([entry(nodes), np.where(edges.tail == NOBODY, SOURCE, exit_of(edges.tail))])
        self.heads = np.concatenate([exit_of(nodes), np.where(edges.head == NOBODY, SINK, entry(edges.head))])
        self.units = clamped(to_units(np.concatenate([capacities, edges.capacity])), len(nodes))

    def flows(self, units: Ints) -> tuple[EdgeFlow, ...]:
        """The flow of edges, given the units on each; those without any are left out."""
        used = np.flatnonzero(units > 0)
        carried = zip(used.tolist(), units[used].tolist(), strict=True)
        return tuple(EdgeFlow(*self.edges.ends(edge), count * RESOLUTION) for edge, count in carried)


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
    flows = solver.flows(np.arange(len(arcs.units)))
    edges = arcs.flows(flows[len(graph.nodes) :])
    cut = _min_cut(arcs, np.array(solver.get_source_side_min_cut(), dtype=np.int64))
    return Flow(solver.optimal_flow() * RESOLUTION, edges, cut)


def placement_flow(problem: Problem, placement: Placement) -> Flow:
    """The maximum flow of a placement: what every placement is judged by.

    Raises:
        KeyError, ValueError: as ``build_graph``.
    """
    return solve_max_flow(build_graph(problem, placement))


def _min_cut(arcs: IntegerArcs, source_side: Ints) -> MinCut:
    # The source reaches vertices with residual capacity; vertices that no arc touches don't matter.
    reached = np.zeros(exit_of(len(arcs.graph.nodes)), dtype=np.bool_)
    reached[source_side[source_side < len(reached)]] = True
    reached[SOURCE] = True
    crossing = np.flatnonzero(reached[arcs.tails] & ~reached[arcs.heads])
    count = len(arcs.graph.nodes)
    nodes = tuple(arcs.graph.nodes[arc].name for arc in crossing[crossing < count].tolist())
    links = tuple(arcs.edges.ends(arc) for arc in (crossing[crossing >= count] - count).tolist())
    return MinCut(nodes, links, int(arcs.units[crossing].sum()) * RESOLUTION)
