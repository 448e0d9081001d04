"""Which of a placement's maximum flows: one that spreads over its nodes, where the flow's value leaves a choice.

Where a layer has more capacity than flows, any split among its nodes gives the same maximum. A solver's own choice is a
corner: some nodes full, others idle. Here every node's cost grows with its load, as a convex function in ``STEPS``
pieces, and the maximum flow of least cost is taken (a minimum-cost flow, OR-Tools). Owns that choice only.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from ortools.graph.python import min_cost_flow

from helix_df.graph.flow import RESOLUTION, EdgeFlow, Flow
from helix_df.graph.flow_graph import FlowGraph, build_graph
from helix_df.graph.max_flow import Network, solve_max_flow
from helix_df.graph.problem import Placement, Problem

Spread = Literal["any", "even", "roomy"]
"""``any``: the solver's own maximum flow. ``even``: nodes are loaded evenly, as shares of their capacity.
``roomy``: and none gets more requests than its part of the KV cache."""

SPREADS: tuple[Spread, ...] = get_args(Spread)

STEPS = 16
"""Pieces of a node's capacity, each dearer than the one before."""

SCALE = 100
"""Cost of a token on a node that is full; costs are whole numbers."""


def spread_flow(problem: Problem, placement: Placement, spread: Spread) -> Flow:
    """A maximum flow of a placement, spread over its nodes. Deterministic; value and cut are ``placement_flow``'s.

    Raises:
        KeyError, ValueError: as ``build_graph``.
    """
    graph = build_graph(problem, placement)
    flow = solve_max_flow(graph)
    if spread == "any" or not flow.edges:
        return flow
    ease = {node.name: node.capacity for node in graph.nodes}
    if spread == "roomy":
        room = _room(problem, graph)
        ease = {name: min(capacity, flow.value * room[name]) for name, capacity in ease.items()}
    return Flow(flow.value, _cheapest(graph, flow, ease), flow.cut)


def _room(problem: Problem, graph: FlowGraph) -> dict[str, float]:
    """KV cache of every node as a share of what the nodes that hold the tightest layer have together."""
    tokens = {node.name: node.kv_tokens for node in problem.nodes}
    total = np.zeros(graph.num_layers)
    for node in graph.nodes:
        total[node.layers.start : node.layers.stop] += tokens[node.name][len(node.layers) - 1]
    tightest = float(total.min())
    return {node.name: tokens[node.name][len(node.layers) - 1] / tightest for node in graph.nodes}


def _cheapest(graph: FlowGraph, flow: Flow, ease: dict[str, float]) -> tuple[EdgeFlow, ...]:
    """The links of the maximum flow whose nodes are loaded least, as shares of their ``ease``."""
    network = Network(graph)
    count = len(graph.nodes)
    solver = min_cost_flow.SimpleMinCostFlow()
    for arc, node in enumerate(graph.nodes):
        bounds = [network.units[arc] * step // STEPS for step in range(STEPS + 1)]
        for step in range(STEPS):
            load = (step + 0.5) / STEPS * node.capacity / ease[node.name]
            solver.add_arc_with_capacity_and_unit_cost(
                network.tails[arc], network.heads[arc], bounds[step + 1] - bounds[step], round(SCALE * load)
            )
    links = [
        solver.add_arc_with_capacity_and_unit_cost(network.tails[arc], network.heads[arc], network.units[arc], 0)
        for arc in range(count, len(network.tails))
    ]
    supply = round(flow.value / RESOLUTION)
    solver.set_nodes_supplies(np.array([0, 1]), np.array([supply, -supply]))
    status = solver.solve()
    if status != solver.OPTIMAL:
        raise AssertionError(f"min-cost flow ended with {status} on a graph of {count} nodes")
    units = [solver.flow(link) for link in links]
    return tuple(
        EdgeFlow(edge.tail, edge.head, some * RESOLUTION)
        for edge, some in zip(graph.edges, units, strict=True)
        if some > 0
    )
