"""The worth of one more node: the same placement with a twin of some node beside it, where it adds most.

Owns the exact search over the layers that the twin may hold. Doesn't move other nodes; planning anew does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from helix_df.explanation.cuts import Cut, NewNode, cut_of, source_side
from helix_df.graph.arcs import connects
from helix_df.graph.flow_graph import FlowEdge, FlowGraph, FlowNode, build_graph
from helix_df.graph.judge import Judge
from helix_df.graph.max_flow import solve_max_flow
from helix_df.graph.problem import COORDINATOR, LinkTable, Placement, Problem
from helix_df.layers import LayerRange

TOLERANCE = 1e-3
"""Tokens/s below which a difference is the rounding of many capacities to integers."""


@dataclass(frozen=True, slots=True)
class OneMore:
    """The best place of a twin of ``like`` beside a placement: its layers, and the exact flow in tokens/s.

    ``layers`` is ``None`` when no twin adds anything wherever it is put.
    """

    like: str
    layers: LayerRange | None
    flow: float


def with_twin(problem: Problem, like: str) -> Problem:
    """The problem with one more node, the last: in the region of ``like``, with its speed, and linked as it is.

    The two are linked to each other as nodes of that region are. Where a job names every link, nothing is said about
    that one; then it is the best that ``like`` has.
    """
    names = {node.name for node in problem.nodes}
    twin = next(name for i in range(len(names) + 1) if (name := f"{like}-twin{i or ''}") not in names)
    table = problem.links
    names_of = {like: twin}
    named = {(names_of.get(a, a), names_of.get(b, b)): link for (a, b), link in table.by_node.items() if like in (a, b)}
    regions = {**table.regions, twin: table.regions[like]}
    links = replace(table, regions=regions, by_node={**table.by_node, **named})
    if links.find(like, twin) is None and named:
        best = max(named.values(), key=lambda link: (link.bytes_per_s, -link.latency_s))
        links = replace(links, by_node={**links.by_node, **LinkTable.symmetric([(like, twin, best)])})
    return replace(problem, nodes=(*problem.nodes, replace(problem.node(like), name=twin)), links=links)


def kinds_of(problem: Problem, gpu: str) -> list[str]:
    """Nodes of a type that one more could be like: the first of each region, network card and set of named links."""
    named = {name for pair in problem.links.by_node for name in pair}
    kinds: dict[tuple[object, ...], str] = {}
    for node in problem.nodes:
        if node.gpu == gpu and node.max_layers:
            own = node.name if node.name in named else None
            kinds.setdefault((node.region, node.nic_bytes_per_s, node.tokens_per_s, own), node.name)
    return list(kinds.values())


def best_twin(problem: Problem, placement: Placement, likes: Sequence[str]) -> OneMore:
    """The best place beside a placement for a twin of one of ``likes``, of which there is at least one.

    Exact: every range of layers of every twin is solved or ruled out by a cut.
    """
    graph = build_graph(problem, placement)
    flow = solve_max_flow(graph)
    if problem.limits.max_hops is not None:
        return _best_judged(problem, placement, likes, flow.value)
    cuts = [cut_of(graph, *source_side(graph, flow.cut))]
    best = OneMore(likes[0], None, flow.value)
    for like in likes:
        best = _best_range(with_twin(problem, like), like, graph, cuts, best)
    return best


def _best_judged(problem: Problem, placement: Placement, likes: Sequence[str], flow: float) -> OneMore:
    """As ``best_twin`` where hops are limited: a new node changes which links count, so every range is judged anew."""
    best = OneMore(likes[0], None, flow)
    for like in likes:
        judge = Judge(with_twin(problem, like))
        start, count = judge.arrays(placement)
        for length in range(1, min(int(judge.most[-1]), problem.num_layers) + 1):
            for first in range(problem.num_layers - length + 1):
                start[-1], count[-1] = first, length
                found = judge.flow(start, count)
                if found > best.flow + TOLERANCE:
                    best = OneMore(like, LayerRange(first, first + length), found)
    return best


def _best_range(problem: Problem, like: str, graph: FlowGraph, cuts: list[Cut], best: OneMore) -> OneMore:
    """The best of ``best`` and what the last node of ``problem`` reaches; learns cuts on the way."""
    options = [(cuts[0].with_node(node), layers, node) for layers, node in _ranges(problem, graph)]
    # The most promising first; of equal ones the shortest, which costs the new node least.
    options.sort(key=lambda option: (-option[0], len(option[1]), option[1]))
    for most, layers, node in options:
        if most <= best.flow + TOLERANCE:
            break
        if any(cut.with_node(node) <= best.flow + TOLERANCE for cut in reversed(cuts)):
            continue
        grown = _grown(graph, problem.nodes[-1].name, layers, node)
        found = solve_max_flow(grown)
        cuts.append(cut_of(graph, *source_side(grown, found.cut)))
        if found.value > best.flow + TOLERANCE:
            best = OneMore(like, layers, found.value)
    return best


def _ranges(problem: Problem, graph: FlowGraph) -> Iterator[tuple[LayerRange, NewNode]]:
    """Every range that the last node of ``problem`` may hold, and what it then is beside ``graph``."""
    twin, partial, total = problem.nodes[-1], problem.partial_inference, problem.num_layers
    inward = [(node, rate) for node in graph.nodes if (rate := problem.link_capacity(node.name, twin.name)) > 0]
    outward = [(node, rate) for node in graph.nodes if (rate := problem.link_capacity(twin.name, node.name)) > 0]
    entry, exit_ = problem.link_capacity(COORDINATOR, twin.name), problem.link_capacity(twin.name, COORDINATOR)
    for length in range(1, min(twin.max_layers, total) + 1):
        capacity = problem.node_capacity(twin, length)
        for start in range(total - length + 1):
            layers = LayerRange(start, start + length)
            into = {node.name: link for node, link in inward if connects(node.layers, layers, partial)}
            out_of = {node.name: link for node, link in outward if connects(layers, node.layers, partial)}
            if start == 0:
                into[COORDINATOR] = entry
            if layers.stop == total:
                out_of[COORDINATOR] = exit_
            if into and out_of:
                yield layers, NewNode(capacity, into, out_of)


def _grown(graph: FlowGraph, name: str, layers: LayerRange, node: NewNode) -> FlowGraph:
    """The graph with the new node; latencies play no part in a max flow."""
    edges = [FlowEdge(tail, name, capacity, 0.0) for tail, capacity in node.into.items()]
    edges += [FlowEdge(name, head, capacity, 0.0) for head, capacity in node.out_of.items()]
    nodes = (*graph.nodes, FlowNode(name, layers, node.capacity))
    return FlowGraph(graph.num_layers, nodes, (*graph.edges, *edges))
