"""Placement rules of other systems, from how they describe them, for the side-by-side table only.

``memory_proportional``: one pipeline, layers in proportion to memory (the ring of exo, the tensor split of llama.cpp).
``pipelines_like_parallax``: as Parallax (Gradient, 2025) describes its allocation: few stages a pipeline, for every
number of pipelines; layers within one shared out by compute; the number with the most flow wins. Its dynamic program
over the order of nodes is replaced by filling the shortest pipeline first.
Written from the descriptions; their own code may do better.
"""

from __future__ import annotations

from helix_df.graph.max_flow import placement_flow
from helix_df.graph.problem import NodeProfile, Placement, Problem
from helix_df.solvers.chain_search import find_chain
from helix_df.solvers.chains import balanced_lengths, lay_out, usable_nodes

MOST_PIPELINES = 24


def memory_proportional(problem: Problem) -> Placement:
    """Layers ∝ the most that fit on a node; where nodes outnumber layers, those with the most memory."""
    nodes = sorted(usable_nodes(problem), key=lambda node: -node.max_layers)[: problem.num_layers]
    chain = find_chain(problem, nodes) or ()
    total = sum(node.max_layers for node in chain)
    lengths, held, seen = [], 0, 0
    for node in chain:
        seen += node.max_layers
        until = round(problem.num_layers * seen / total)
        lengths.append(until - held)
        held = until
    return lay_out(chain, lengths)


def pipelines_like_parallax(problem: Problem) -> Placement:
    """For every number of pipelines fill each in turn with the largest nodes; keep the number with the most flow."""
    best: Placement = {}
    best_flow = 0.0
    for count in range(1, MOST_PIPELINES + 1):
        placement = _pipelines(problem, count)
        flow = placement_flow(problem, placement).value if placement else 0.0
        if flow > best_flow:
            best, best_flow = placement, flow
    return best


def _pipelines(problem: Problem, count: int) -> Placement:
    groups = _share_out(usable_nodes(problem), count, problem.num_layers)
    placement: Placement = {}
    for group in groups:
        chain = find_chain(problem, group, at_most=problem.num_layers)
        lengths = balanced_lengths(problem, chain) if chain else None
        if not chain or not lengths:
            return {}
        placement = {**placement, **lay_out(chain, lengths)}
    return placement


def _share_out(nodes: tuple[NodeProfile, ...], count: int, layers: int) -> list[list[NodeProfile]]:
    """Nodes over pipelines: first until all hold the model with few stages, then the rest to the slowest."""
    left = sorted(nodes, key=lambda node: -node.max_layers)
    groups: list[list[NodeProfile]] = [[] for _ in range(count)]
    for node in left:
        room = [sum(member.max_layers for member in group) for group in groups]
        short = [g for g in range(count) if room[g] < layers]
        power = [sum(max(member.tokens_per_s) for member in group) for group in groups]
        chosen = max(short, key=lambda g: (room[g], -g)) if short else min(range(count), key=lambda g: (power[g], g))
        groups[chosen].append(node)
    return groups
