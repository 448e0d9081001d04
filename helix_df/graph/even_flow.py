"""Which of a placement's maximum flows: one that spreads over its nodes and links, where its value leaves a choice.

Where a layer has more capacity than flows, any split among its nodes gives the same maximum. A solver's own choice is
a corner: some nodes full, others idle, and few links in use. Here the cost of a node, or of a link, grows with its
load, as a convex function in ``STEPS`` pieces, and the maximum flow of least cost is taken (a minimum-cost flow,
OR-Tools). Owns that choice only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from ortools.graph.python import min_cost_flow

from helix_df.graph.arcs import SINK, SOURCE
from helix_df.graph.flow import RESOLUTION, EdgeFlow, Flow
from helix_df.graph.flow_graph import FlowGraph, build_graph
from helix_df.graph.max_flow import IntegerArcs, solve_max_flow
from helix_df.graph.problem import Placement, Problem

CostPreset = Literal["any", "even-nodes", "kv-room", "wide-links", "quick-nodes"]
"""``any``: the solver's own maximum flow. ``even-nodes``: nodes are loaded evenly, as shares of their capacity.
``kv-room``: and none gets more requests than its part of the KV cache. ``wide-links``: links are loaded evenly, so that
there are many ways on from a node when one is full. ``quick-nodes``: that, but slow nodes less than fast ones."""

COST_PRESETS: tuple[CostPreset, ...] = get_args(CostPreset)

STEPS = 16
"""Pieces of a capacity, each dearer than the one before."""

SCALE = 1000
"""Cost of a token on a node or link that is full; costs are whole numbers."""

LITTLE = 0.1
"""What the load of nodes costs beside that of links, where links come first."""


@dataclass(frozen=True, slots=True)
class ArcCosts:
    """What a full load costs: by node, and of any link."""

    nodes: dict[str, float]
    links: float = 0.0


def spread_flow(problem: Problem, placement: Placement, spread: CostPreset) -> Flow:
    """A maximum flow of a placement, spread over its nodes. Deterministic; value and cut are ``placement_flow``'s.

    Raises:
        KeyError, ValueError: as ``build_graph``.
    """
    graph = build_graph(problem, placement)
    flow = solve_max_flow(graph)
    if spread == "any" or not flow.edges:
        return flow
    return Flow(flow.value, _cheapest(graph, flow, _arc_costs(problem, graph, flow, spread)), flow.cut)


def _arc_costs(problem: Problem, graph: FlowGraph, flow: Flow, spread: CostPreset) -> ArcCosts:
    match spread:
        case "kv-room":
            room = _room(problem, graph)
            ease = {node.name: min(node.capacity, flow.value * room[node.name]) for node in graph.nodes}
            return ArcCosts({node.name: node.capacity / ease[node.name] for node in graph.nodes})
        case "wide-links":
            return ArcCosts({node.name: LITTLE for node in graph.nodes}, 1.0)
        case "quick-nodes":
            # Tokens/s through one layer.
            speed = {node.name: node.capacity * len(node.layers) for node in graph.nodes}
            fastest = max(speed.values())
            return ArcCosts({name: LITTLE * (fastest / own) ** 2 for name, own in speed.items()}, 1.0)
        case _:
            return ArcCosts({node.name: 1.0 for node in graph.nodes})


def _room(problem: Problem, graph: FlowGraph) -> dict[str, float]:
    """KV cache of every node as a share of what the nodes that hold the tightest layer have together."""
    tokens = {node.name: node.kv_tokens for node in problem.nodes}
    total = np.zeros(graph.num_layers)
    for node in graph.nodes:
        total[node.layers.start : node.layers.stop] += tokens[node.name][len(node.layers) - 1]
    tightest = float(total.min())
    return {node.name: tokens[node.name][len(node.layers) - 1] / tightest for node in graph.nodes}


def _cheapest(graph: FlowGraph, flow: Flow, costs: ArcCosts) -> tuple[EdgeFlow, ...]:
    """The links of the maximum flow that costs least."""
    arcs = IntegerArcs(graph)
    tails, heads, capacity = arcs.tails.tolist(), arcs.heads.tolist(), arcs.units.tolist()
    count = len(graph.nodes)
    solver = min_cost_flow.SimpleMinCostFlow()

    def add(arc: int, full: int, cost: float) -> list[int]:
        """An arc in pieces, up to a load that counts as full; the last piece takes what is beyond."""
        steps = STEPS if cost else 1
        bounds = [full * step // steps for step in range(steps)] + [capacity[arc]]
        return [
            solver.add_arc_with_capacity_and_unit_cost(
                tails[arc],
                heads[arc],
                bounds[step + 1] - bounds[step],
                round(SCALE * cost * (step + 0.5) / steps),
            )
            for step in range(steps)
        ]

    for arc, node in enumerate(graph.nodes):
        add(arc, capacity[arc], costs.nodes[node.name])
    # A link is full when it carries all that one of its ends can.
    most = {node.name: capacity[arc] for arc, node in enumerate(graph.nodes)}
    links = []
    for arc, edge in enumerate(graph.edges, start=count):
        ends = (most[end] for end in (edge.tail, edge.head) if end in most)
        links.append(add(arc, min(capacity[arc], *ends), costs.links))
    supply = round(flow.value / RESOLUTION)
    solver.set_nodes_supplies(np.array([SOURCE, SINK]), np.array([supply, -supply]))
    status = solver.solve()
    if status != solver.OPTIMAL:
        raise AssertionError(f"min-cost flow ended with {status} on a graph of {count} nodes")
    units = [sum(solver.flow(piece) for piece in pieces) for pieces in links]
    return tuple(
        EdgeFlow(edge.tail, edge.head, some * RESOLUTION)
        for edge, some in zip(graph.edges, units, strict=True)
        if some > 0
    )
