"""Which of a placement's maximum flows: one that spreads over its nodes and links, where its value leaves a choice.

Where a layer has more capacity than flows, any split among its nodes gives the same maximum. A solver's own choice is
a corner: some nodes full, others idle, and few links in use. Here the cost of a node, or of a link, grows with its
load, as a convex function in pieces, and the maximum flow of least cost is taken (a minimum-cost flow,
OR-Tools). Owns that choice only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from ortools.graph.python import min_cost_flow

from helix_df.graph.arcs import MOST_UNITS, SINK, SOURCE, entry, exit_of, to_units
from helix_df.graph.capacities import Floats, Ints
from helix_df.graph.flow import RESOLUTION, EdgeFlow, Flow
from helix_df.graph.flow_graph import NOBODY, FlowGraph, build_graph
from helix_df.graph.max_flow import IntegerArcs, solve_max_flow
from helix_df.graph.problem import COORDINATOR, Placement, Problem

CostPreset = Literal["any", "even-nodes", "kv-room", "wide-links", "quick-nodes", "spare-links"]
"""``any``: the solver's own maximum flow. ``even-nodes``: nodes are loaded evenly, as shares of their capacity.
``kv-room``: and none gets more requests than its part of the KV cache. ``wide-links``: links are loaded evenly, so that
there are many ways on from a node when one is full. ``quick-nodes``: that, but slow nodes less than fast ones.
``spare-links``: nodes evenly, and links as shares of what each can carry itself: fast ones cost next to nothing, slow
ones are spared."""

COST_PRESETS: tuple[CostPreset, ...] = get_args(CostPreset)

PLANNED: CostPreset = "spare-links"
"""Of plans whose solver leaves the choice: what serves most, simulated on many placements (benchmarks/flow_table.py).
It also takes the fewest links of those that spread over links."""

STEPS = 16
"""Pieces of a capacity, each dearer than the one before."""

DENSE = 8000
"""Links beyond which each has a few pieces only, the narrower the lower the load: where a node has many ways on, each
carries little."""

MANY = 200_000
"""Links beyond which only some are looked at: those of the solver's flow, and ``WAYS`` more from every node."""

WAYS = 16

_EVEN: Ints = np.arange(STEPS + 1, dtype=np.int64)
_COARSE: Ints = np.array([0, 1, 4, 9, 16], dtype=np.int64)
_WHOLE: Ints = np.array([0, 1], dtype=np.int64)

SCALE = 1000
"""Cost of a token on a node or link that is full; costs are whole numbers."""

LITTLE = 0.1
"""What the load of nodes costs beside that of links, where links come first."""


@dataclass(frozen=True, slots=True)
class ArcCosts:
    """What a full load costs: by node, and of any link.

    A link is full when it carries all that one of its ends can, or with ``own`` all that it can itself.
    """

    nodes: dict[str, float]
    links: float = 0.0
    own: bool = False


def spread_flow(problem: Problem, placement: Placement, spread: CostPreset = PLANNED) -> Flow:
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
        case "spare-links":
            return ArcCosts({node.name: 1.0 for node in graph.nodes}, 1.0, own=True)
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
    links = _links_to_use(graph, arcs, flow)
    pieces = _all_pieces(graph, arcs, links, costs)
    solver = min_cost_flow.SimpleMinCostFlow()
    added = solver.add_arcs_with_capacity_and_unit_cost(
        arcs.tails[pieces.arcs].astype(np.int32), arcs.heads[pieces.arcs].astype(np.int32), pieces.units, pieces.costs
    )
    supply = round(flow.value / RESOLUTION)
    solver.set_nodes_supplies(np.array([SOURCE, SINK]), np.array([supply, -supply]))
    status = solver.solve()
    if status != solver.OPTIMAL:
        raise AssertionError(f"min-cost flow ended with {status} on a graph of {len(graph.nodes)} nodes")
    carried = np.zeros(len(arcs.units), dtype=np.int64)
    np.add.at(carried, pieces.arcs, solver.flows(added))
    return arcs.flows(carried[len(graph.nodes) :])


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Parallel arcs that stand for arcs of convex cost: whose piece each is, its capacity, and its cost a unit."""

    arcs: Ints
    units: Ints
    costs: Ints

    def and_then(self, others: _Pieces) -> _Pieces:
        """Both, one after the other."""
        arcs = np.concatenate([self.arcs, others.arcs])
        return _Pieces(arcs, np.concatenate([self.units, others.units]), np.concatenate([self.costs, others.costs]))


def _links_to_use(graph: FlowGraph, arcs: IntegerArcs, flow: Flow) -> Ints:
    """Which links, by position, the cheapest flow may use: enough for a maximum flow, and not too many to solve."""
    links = np.arange(len(graph.edges))
    if len(links) <= MANY:
        return links
    place = {node.name: i for i, node in enumerate(graph.nodes)} | {COORDINATOR: NOBODY}
    width = len(graph.nodes) + 1
    used = [(place[edge.tail] + 1) * width + place[edge.head] + 1 for edge in flow.edges]
    carries = np.isin((arcs.edges.tail + 1) * width + arcs.edges.head + 1, used)
    tails = arcs.tails[len(graph.nodes) :]
    order = np.argsort(tails, kind="stable")
    degree = np.bincount(tails)[tails]
    rank = np.empty_like(order)
    rank[order] = links - np.searchsorted(tails[order], tails[order])
    # As far apart as can be, and other ones from every node.
    chosen = (rank + tails) * WAYS % degree < WAYS
    kept: Ints = links[carries | chosen | (tails == SOURCE)]
    return kept


def _all_pieces(graph: FlowGraph, arcs: IntegerArcs, links: Ints, costs: ArcCosts) -> _Pieces:
    count = len(graph.nodes)
    cost = np.array([costs.nodes[node.name] for node in graph.nodes])
    nodes = _in_pieces(np.arange(count), arcs.units[:count], arcs.units[:count], cost, _EVEN)
    most, full = arcs.units[count:], _most_on_links(arcs, count)
    if costs.own:
        # Most pieces of a fast link are beyond what its ends can carry.
        most, full = full, to_units(arcs.edges.capacity)
    bounds = (_COARSE if len(links) > DENSE else _EVEN) if costs.links else _WHOLE
    price = np.full(len(links), costs.links)
    return nodes.and_then(_in_pieces(count + links, most[links], full[links], price, bounds))


def _most_on_links(arcs: IntegerArcs, nodes: int) -> Ints:
    """What every link can carry, itself and its ends."""
    most = np.full(exit_of(nodes), MOST_UNITS)
    most[entry(np.arange(nodes))] = most[exit_of(np.arange(nodes))] = arcs.units[:nodes]
    ends = np.minimum(most[arcs.tails[nodes:]], most[arcs.heads[nodes:]])
    carried: Ints = np.minimum(arcs.units[nodes:], ends)
    return carried


def _in_pieces(arcs: Ints, most: Ints, full: Ints, cost: Floats, bounds: Ints) -> _Pieces:
    """Arcs in pieces, each dearer than the one before; pieces that nothing reaches are left out.

    Args:
        arcs: their numbers.
        most: capacities.
        full: the load at which a further token costs ``cost``.
        cost: of a token at a full load.
        bounds: where pieces begin and end, as shares of a full load in units of the last one. The last piece takes
            what is beyond a full load, too.
    """
    ends = np.minimum(full[:, None] * bounds[None, :] // bounds[-1], most[:, None])
    ends[:, -1] = most
    units = np.diff(ends, axis=1)
    middles = (bounds[:-1] + bounds[1:]) / (2 * bounds[-1])
    costs = np.rint(SCALE * cost[:, None] * middles[None, :]).astype(np.int64)
    used = units > 0
    return _Pieces(np.broadcast_to(arcs[:, None], units.shape)[used], units[used], costs[used])
