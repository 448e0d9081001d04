"""Nodes that no flow passes, and why.

Owns the reasons, each found by reachability or an exact max flow: not a layer fits, the job excludes the node, the
solver left it out, no way leads to it or from it, its links are too slow, or it stands by while the bottleneck is
elsewhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from helix_df.explanation.one_more import TOLERANCE
from helix_df.graph.flow import Flow
from helix_df.graph.flow_graph import FlowGraph, build_graph
from helix_df.graph.max_flow import solve_max_flow
from helix_df.graph.problem import COORDINATOR, NodeProfile, Placement, Problem
from helix_df.layers import LayerRange

Why = Literal["fits_nothing", "excluded", "left_out", "no_way_in", "no_way_out", "slow_links", "spare"]


@dataclass(frozen=True, slots=True)
class IdleNode:
    """A node without flow.

    ``most_through`` is the most tokens/s that could pass it if all others stood aside for it, and ``fast_flow`` the
    plan's flow if its links carried any amount: more than now exactly when its links are why it does nothing. Both are
    ``None`` for nodes that hold nothing.
    """

    node: str
    gpu: str
    layers: LayerRange | None
    why: Why
    most_through: float | None = None
    fast_flow: float | None = None


def idle_nodes(problem: Problem, placement: Placement, flow: Flow) -> tuple[IdleNode, ...]:
    """Every node that ``flow``, the placement's maximum, leaves alone; those that hold layers first."""
    busy = {edge.head for edge in flow.edges}
    graph = build_graph(problem, placement)
    gpus = {node.name: node.gpu for node in problem.nodes}
    ends_of_cut = {name for link in flow.cut.links for name in link}
    placed = []
    for node in graph.nodes:
        if node.name not in busy:
            # Links outside the cut change nothing however fast they are: the cut still proves it.
            fast = solve_max_flow(_with_fast_links(graph, node.name)).value if node.name in ends_of_cut else flow.value
            placed.append(_why(graph, flow.value, fast, node.name, gpus[node.name]))
    without = [
        IdleNode(node.name, node.gpu, None, _why_without(problem, node))
        for node in problem.nodes
        if node.name not in placement
    ]
    return (*placed, *without)


def _why_without(problem: Problem, node: NodeProfile) -> Why:
    if node.name in problem.limits.excluded:
        return "excluded"
    return "left_out" if node.max_layers else "fits_nothing"


def _why(graph: FlowGraph, flow: float, fast: float, name: str, gpu: str) -> IdleNode:
    layers = next(node.layers for node in graph.nodes if node.name == name)
    most = most_through(graph, name)
    if not _reached(graph, name, forward=True):
        why: Why = "no_way_in"
    elif not _reached(graph, name, forward=False):
        why = "no_way_out"
    else:
        why = "slow_links" if fast > flow + TOLERANCE else "spare"
    return IdleNode(name, gpu, layers, why, most, fast)


def most_through(graph: FlowGraph, name: str) -> float:
    """The most tokens/s that can pass a node when the rest of the graph serves it alone.

    Nodes before it on any way end in layers before its end, and those after it end beyond, so the two halves share
    nothing: the smallest of what gets to it, what it serves, and what gets away from it is exact.
    """
    capacity = next(node.capacity for node in graph.nodes if node.name == name)
    before = [edge for edge in graph.edges if edge.head != COORDINATOR]
    after = [edge for edge in graph.edges if edge.tail != COORDINATOR]
    into = [replace(edge, head=COORDINATOR) for edge in before if edge.head == name]
    out_of = [replace(edge, tail=COORDINATOR) for edge in after if edge.tail == name]
    others = tuple(node for node in graph.nodes if node.name != name)
    rest = [
        tuple(edge for edge in edges if name not in (edge.tail, edge.head)) + tuple(own)
        for edges, own in ((before, into), (after, out_of))
    ]
    halves = [solve_max_flow(replace(graph, nodes=others, edges=edges)).value for edges in rest]
    return min(capacity, *halves)


def _with_fast_links(graph: FlowGraph, name: str) -> FlowGraph:
    edges = tuple(replace(edge, capacity=math.inf) if name in (edge.tail, edge.head) else edge for edge in graph.edges)
    return replace(graph, edges=edges)


def _reached(graph: FlowGraph, name: str, forward: bool) -> bool:
    """Whether ways lead from the coordinator to a node, or from the node to the coordinator."""
    following: dict[str, list[str]] = {}
    for edge in graph.edges:
        if edge.capacity > 0:
            here, there = (edge.tail, edge.head) if forward else (edge.head, edge.tail)
            following.setdefault(here, []).append(there)
    seen: set[str] = set()
    frontier = [COORDINATOR]
    while frontier:
        found = [there for there in following.get(frontier.pop(), ()) if there not in seen and there != COORDINATOR]
        seen.update(found)
        frontier += found
    return name in seen
