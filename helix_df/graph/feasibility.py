"""Why a problem can't be served, or a placement carries nothing, in words a user can act on.

Owns necessary conditions that are cheap to check (memory, links) and their messages. A problem that passes may still
have no placement: whether links allow one is as hard as finding a longest path. Doesn't place layers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from helix_df.errors import Infeasible
from helix_df.graph.bounds import best_limited_covering
from helix_df.graph.capacities import request_matrix
from helix_df.graph.flow_graph import FlowGraph, build_graph
from helix_df.graph.link_classes import LinkClasses
from helix_df.graph.problem import COORDINATOR, NodeProfile, Placement, PlacementLimits, Problem
from helix_df.layers import LayerRange

NAMES_SHOWN = 6
"""Names of nodes that a message lists before it counts the rest."""


def explain_infeasible(problem: Problem) -> Infeasible | None:
    """The requirement that no placement can meet, or ``None`` when none was found.

    Checks, in this order: nodes that limits name hold what is asked of them; all nodes together hold the model; so many
    of them as a request may pass do, and with KV cache for the requests asked for; some node is linked to the
    coordinator; some set of nodes that reach each other over links, with a way in and a way out, holds the model.
    """
    wrong_node = _unable_node(problem)
    if wrong_node is not None:
        return wrong_node
    usable = [node for node in problem.nodes if node.max_layers]
    if sum(node.max_layers for node in usable) < problem.num_layers:
        return _too_little_memory(problem)
    too_tight = _too_tight(problem)
    if too_tight is not None:
        return too_tight
    doors = _EntryPoints.of(problem, usable)
    if not doors.entries or not doors.exits:
        return Infeasible(
            f"no node that fits a layer has a link {'from' if doors.exits else 'to'} the coordinator",
            where="links",
            expected="a link between the coordinator and at least one node",
            hint="add links.default, or an entry of links.nodes or links.regions that includes the coordinator",
        )
    islands = _islands(problem, usable)
    best = max(_layers_in_reach(island, doors) for island in islands)
    if best < problem.num_layers:
        return _too_few_links(problem, islands, doors, best)
    return None


@dataclass(frozen=True, slots=True)
class _EntryPoints:
    """The nodes that requests come to from the coordinator (``entries``), and those that they can go back from.

    ``between`` are all that lie on ways from the former to the latter.
    """

    entries: frozenset[str]
    exits: frozenset[str]
    between: frozenset[str]

    @classmethod
    def of(cls, problem: Problem, nodes: Sequence[NodeProfile]) -> _EntryPoints:
        """The doors among some nodes."""
        names = {node.name for node in nodes}
        usable = np.array([node.name in names for node in problem.nodes], dtype=np.bool_)
        between = np.flatnonzero(LinkClasses(problem).reached(usable))
        return cls(
            frozenset(node.name for node in nodes if _linked(problem, COORDINATOR, node.name)),
            frozenset(node.name for node in nodes if _linked(problem, node.name, COORDINATOR)),
            frozenset(problem.nodes[i].name for i in between.tolist()),
        )


def explain_no_flow(problem: Problem, placement: Placement) -> Infeasible:
    """Why a placement has a flow of 0: layers that nobody holds, ranges that don't meet, or links that are missing."""
    graph = build_graph(problem, placement)
    held = [any(layer in node.layers for node in graph.nodes) for layer in range(problem.num_layers)]
    if not all(held):
        missing = _runs([layer for layer, is_held in enumerate(held) if not is_held])
        return Infeasible(
            f"nobody holds layers {missing}",
            where="placement",
            hint="another solver (auto, mip), more time, or GPUs that hold more layers",
        )
    if problem.limits.max_hops is not None:
        whole = build_graph(replace(problem, limits=PlacementLimits()), placement)
        if len(whole.edges) > len(graph.edges):
            return Infeasible(
                f"no way through the layers passes at most {problem.limits.max_hops} nodes",
                where="limits.max_hops",
                hint="another solver (auto, cover), or more hops",
            )
    return _dead_end(problem, graph)


def _too_little_memory(problem: Problem) -> Infeasible:
    by_type = Counter((node.gpu, node.max_layers) for node in problem.nodes)
    total = sum(node.max_layers for node in problem.nodes)
    fits = " + ".join(f"{count} × {gpu} ({layers} each)" for (gpu, layers), count in sorted(by_type.items()))
    return Infeasible(
        f"the nodes hold {total} of the model's {problem.num_layers} layers; "
        f"{problem.num_layers - total} find no memory",
        where="nodes",
        found=f"{fits} = {total} layers",
        expected=f"room for {problem.num_layers} layers",
        hint="add nodes, use GPUs with more memory, a smaller dtype or a shorter context",
    )


def _unable_node(problem: Problem) -> Infeasible | None:
    """A node that a limit asks more of than fits on it."""
    most = {node.name: node.max_layers for node in problem.nodes}
    asked = [("pin", name, len(layers)) for name, layers in sorted(problem.limits.fixed.items())]
    asked += [("use", name, 1) for name in sorted(problem.limits.required)]
    for field, name, layers in asked:
        if most[name] < layers:
            return Infeasible(
                f"{name} can't hold {layers} layer(s)",
                where=f"limits.{field}",
                found=f"{most[name]} fit beside the KV cache of one request",
                hint="take the node out of the limit, or pin fewer layers",
            )
    return None


def _too_tight(problem: Problem) -> Infeasible | None:
    """Limits on depth and KV cache that no placement keeps."""
    limits = problem.limits
    if limits.max_hops is not None:
        deepest = sum(sorted((node.max_layers for node in problem.nodes), reverse=True)[: limits.max_hops])
        if deepest < problem.num_layers:
            return Infeasible(
                f"no {limits.max_hops} nodes hold the model's {problem.num_layers} layers",
                where="limits.max_hops",
                found=f"the {limits.max_hops} largest hold {deepest}",
                hint="more hops, or GPUs that hold more layers",
            )
    if limits.min_requests:
        fit = request_matrix(problem)
        most = float((fit * np.arange(fit.shape[1])).max(axis=1, initial=0).sum()) / problem.num_layers
        if most < limits.min_requests:
            return Infeasible(
                f"no placement has KV cache for {limits.min_requests} requests on every layer",
                where="limits.min_requests",
                found=f"at most {int(most)} of {limits.request_tokens:.4g} tokens each",
                hint="fewer requests, a shorter workload, or more memory",
            )
    if (limits.max_hops is not None or limits.min_requests) and best_limited_covering(problem).flow <= 0:
        return Infeasible("no placement keeps both limits on depth and KV cache", where="limits", hint="loosen one")
    return None


def _too_few_links(
    problem: Problem, islands: Sequence[Sequence[NodeProfile]], doors: _EntryPoints, best: int
) -> Infeasible:
    sizes = ", ".join(
        f"{_names(node.name for node in island)}: {_layers_in_reach(island, doors)} layers"
        for island in sorted(islands, key=lambda island: (-_layers_in_reach(island, doors), island[0].name))[:3]
    )
    return Infeasible(
        f"over the links there are, requests reach at most {best} of {problem.num_layers} layers",
        where="links",
        found=f"{len(islands)} group(s) of nodes that reach each other; largest first: {sizes}",
        expected=f"one group that holds {problem.num_layers} layers, with a way from and to the coordinator",
        hint="add links between the groups, or from the coordinator to more nodes",
    )


def _linked(problem: Problem, a: str, b: str) -> bool:
    return problem.link_capacity(a, b) > 0


def _joined(problem: Problem, a: str, b: str) -> bool:
    return _linked(problem, a, b) or _linked(problem, b, a)


def _islands(problem: Problem, nodes: Sequence[NodeProfile]) -> list[list[NodeProfile]]:
    """Groups of nodes joined by links in one direction at least, without the coordinator, each in the order of
    ``nodes``.
    """
    unseen = dict.fromkeys(range(len(nodes)))
    islands = []
    while unseen:
        first = next(iter(unseen))
        del unseen[first]
        members, frontier = [first], [first]
        while frontier:
            here = nodes[frontier.pop()].name
            found = [other for other in unseen if _joined(problem, here, nodes[other].name)]
            for other in found:
                del unseen[other]
            members += found
            frontier += found
        islands.append([nodes[i] for i in sorted(members)])
    return islands


def _layers_in_reach(island: Sequence[NodeProfile], doors: _EntryPoints) -> int:
    """Most layers that one request can run in a group: 0 without a way in or out, one node's when these are the same.

    A request visits a node once, so a pipeline of several nodes needs two that are linked to the coordinator.
    """
    entries = {node.name for node in island} & doors.entries
    exits = {node.name for node in island} & doors.exits
    if not entries or not exits:
        return 0
    if len(entries | exits) == 1:
        return sum(node.max_layers for node in island if node.name in entries)
    return sum(node.max_layers for node in island if node.name in doors.between)


def _dead_end(problem: Problem, graph: FlowGraph) -> Infeasible:
    """Where requests that enter get stuck, told for those that get furthest."""
    reached = _reached(graph)
    furthest = max((node.layers.stop for node in graph.nodes if node.name in reached), default=0)
    last = [node.name for node in graph.nodes if node.name in reached and node.layers.stop == furthest]
    if furthest == problem.num_layers:
        return _missing_link(last, [COORDINATOR], furthest)
    following = [node.name for node in graph.nodes if _takes_over(problem, node.layers, furthest)]
    if following:
        return _missing_link(last or [COORDINATOR], following, furthest)
    return Infeasible(
        f"requests get through layers [0, {furthest}), and no node starts at layer {furthest}",
        where="placement",
        found=f"{_names(last)} stop(s) there; others that hold layer {furthest} start earlier",
        hint="solver.partial_inference: true lets a request join a node in the middle of its layers",
    )


def _reached(graph: FlowGraph) -> set[str]:
    """Nodes that requests from the coordinator get to."""
    heads: dict[str, list[str]] = {}
    for edge in graph.edges:
        if edge.capacity > 0 and edge.head != COORDINATOR:
            heads.setdefault(edge.tail, []).append(edge.head)
    reached: set[str] = set()
    frontier = [COORDINATOR]
    while frontier:
        found = set(heads.get(frontier.pop(), ())) - reached
        reached |= found
        frontier += found
    return reached


def _takes_over(problem: Problem, layers: LayerRange, position: int) -> bool:
    if problem.partial_inference and position > 0:
        return position in layers
    return layers.start == position


def _missing_link(tails: Sequence[str], heads: Sequence[str], position: int) -> Infeasible:
    done = f"requests get through layers [0, {position}) and no further" if position else "requests can't enter"
    return Infeasible(
        f"{done}: no link leads on",
        where="links",
        found=f"no link from {_names(tails)} to {_names(heads)}",
        hint="add such a link, or let another solver (auto, mip) place the layers",
    )


def _names(names: Iterable[str]) -> str:
    listed = list(names)
    shown = ", ".join(listed[:NAMES_SHOWN])
    return shown if len(listed) <= NAMES_SHOWN else f"{shown} and {len(listed) - NAMES_SHOWN} more"


def _runs(layers: Sequence[int]) -> str:
    """``[1, 2, 3, 7]`` as ``[1, 4), [7, 8)``."""
    runs: list[tuple[int, int]] = []
    for layer in layers:
        if runs and runs[-1][1] == layer:
            runs[-1] = (runs[-1][0], layer + 1)
        else:
            runs.append((layer, layer + 1))
    return ", ".join(f"[{start}, {stop})" for start, stop in runs)
