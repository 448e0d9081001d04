"""``swarm``: equal stages, and nodes shared out so that all stages are about as fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from helix_df.graph.link_classes import LinkClasses
from helix_df.graph.problem import COORDINATOR, NodeProfile, Problem
from helix_df.layers import LayerRange
from helix_df.solvers.api import SolveOptions, SolveResult, Termination, Watch
from helix_df.solvers.chain_search import rank_links
from helix_df.solvers.chains import even_lengths, usable_nodes
from helix_df.solvers.options import read_extra, refuse_backend


@dataclass(frozen=True, slots=True)
class SwarmOptions:
    """``stage_layers``: layers of a stage; by default what the weakest GPU holds."""

    stage_layers: int | None = None


class SwarmSolver:
    """Cut the model into equal stages that the weakest GPU holds, then balance the stages' throughput.

    Source: Swarm parallelism (Ryabinin et al., arXiv 2301.11913) as the Helix paper (arXiv 2406.01566, section 6.2)
    uses it for serving: the stage length is set by the GPU that holds fewest layers. Where that makes more stages than
    there are nodes to fill them, the weakest type is left out and the next one sets the length. Nodes go, the fastest
    first, to the stage that serves least so far, and of equal ones to the stage whose nodes they are best linked to.
    Stages are numbered along good links, so that regions stay together.
    """

    name = "swarm"
    own_options = SwarmOptions

    def solve(self, problem: Problem, options: SolveOptions, watch: Watch) -> SolveResult:
        refuse_backend(self.name, options)
        wanted = read_extra(self.name, options.extra, SwarmOptions).stage_layers
        nodes = usable_nodes(problem)
        limits = [wanted] if wanted else sorted({node.max_layers for node in nodes})
        for limit in limits:
            count = -(-problem.num_layers // limit)
            ranges = _stage_ranges(problem.num_layers, count)
            longest = len(ranges[0])
            able = [node for node in nodes if node.max_layers >= longest]
            if len(able) >= count:
                groups = _in_link_order(problem, _share_out(problem, able, longest, count))
                placement = {node.name: layers for group, layers in zip(groups, ranges, strict=True) for node in group}
                return SolveResult(placement, Termination("finished", detail=f"{count} stages of ≤ {limit} layers"))
        detail = f"no equal stages give {problem.num_layers} layers a node each"
        return SolveResult(None, Termination("finished", detail=detail))


def _stage_ranges(num_layers: int, count: int) -> list[LayerRange]:
    lengths = even_lengths([num_layers] * count, num_layers)
    assert lengths is not None
    starts = [sum(lengths[:i]) for i in range(count)]
    return [LayerRange(start, start + length) for start, length in zip(starts, lengths, strict=True)]


def _share_out(problem: Problem, nodes: Sequence[NodeProfile], layers: int, count: int) -> list[list[NodeProfile]]:
    """Nodes in ``count`` groups of about the same throughput with ``layers`` layers each (longest first)."""
    groups: list[list[NodeProfile]] = [[] for _ in range(count)]
    speeds = [0.0] * count
    links, position = LinkClasses(problem), {node.name: i for i, node in enumerate(problem.nodes)}
    members = np.zeros((count, len(links.between)))  # of each class in each group
    fastest_first = sorted(nodes, key=lambda node: -problem.node_capacity(node, layers))
    for node in fastest_first:
        slowest = min(speeds)
        candidates = [i for i in range(count) if speeds[i] == slowest]
        chosen = candidates[0]
        code = links.code[position[node.name]]
        if len(candidates) > 1:
            # The first of those with which it has the most tokens/s of links.
            chosen = candidates[int(np.argmax(members[candidates] @ links.between[code]))]
        groups[chosen].append(node)
        members[chosen, code] += 1
        speeds[chosen] += problem.node_capacity(node, layers)
    return groups


def _in_link_order(problem: Problem, groups: list[list[NodeProfile]]) -> list[list[NodeProfile]]:
    """Groups reordered so that each is well linked to the next, going by their fastest nodes."""
    left = {group[0].name: group for group in groups}
    ordered = []
    here = COORDINATOR
    while left:
        ranked = rank_links(problem, here, list(left))
        here = ranked[-1] if ranked else next(iter(left))
        ordered.append(left.pop(here))
    return ordered
