"""Which hops a plan's placement makes possible, whether its flow uses them or not.

Knows nothing of requests or of who is up.
"""

from __future__ import annotations

import numpy as np

from helix_df.errors import HelixError
from helix_df.graph.flow import RESOLUTION
from helix_df.graph.flow_graph import FlowEdge, FlowGraph, FlowNode
from helix_df.graph.problem import COORDINATOR
from helix_df.plan.plan import Plan
from helix_df.rules.routing import Adjacency, leading_to_sink
from helix_df.rules.schedulers.registry import follows_flow


def possible_ways(plan: Plan) -> FlowGraph:
    """Every hop that the layers and links of a plan allow, with what it can carry.

    Where that can't be found out any more, since the model's files are gone, say, those with flow.
    """
    try:
        return plan.graph()
    except HelixError:
        nodes = tuple(FlowNode(stage.node, stage.layers, stage.tokens_per_s) for stage in plan.stages)
        edges = tuple(FlowEdge(edge.tail, edge.head, edge.tokens_per_s, 0.0) for edge in plan.edges)
        return FlowGraph(plan.num_layers, nodes, edges)


def ways_of(plan: Plan, ways: FlowGraph) -> Adjacency:
    """The next hops that requests take while every node is up: those with flow where the scheduler goes by it."""
    hops = plan.edges if follows_flow(plan.served.runtime.scheduler) else ways.edges
    return leading_to_sink([(hop.tail, hop.head) for hop in hops])


def all_hops(ways: FlowGraph) -> Adjacency:
    """The next hops from every endpoint that can carry anything at all."""
    table = ways.table
    wide = np.array([node.capacity >= RESOLUTION for node in ways.nodes] + [True])  # the last is the coordinator
    carries = (table.capacity >= RESOLUTION) & wide[table.tail] & wide[table.head]
    names = (*table.names, COORDINATOR)
    heads: dict[str, list[str]] = {}
    for tail, head in zip(table.tail[carries].tolist(), table.head[carries].tolist(), strict=True):
        heads.setdefault(names[tail], []).append(names[head])
    return {tail: tuple(found) for tail, found in heads.items()}


def serving_nodes(plan: Plan, ways: FlowGraph | None = None) -> tuple[str, ...]:
    """Nodes of a plan that requests may go through, and so need a worker: with flow, or in place of one with flow."""
    edges = (ways or possible_ways(plan)).edges
    possible = leading_to_sink([(edge.tail, edge.head) for edge in edges])
    return tuple(stage.node for stage in plan.stages if stage.node in possible)
