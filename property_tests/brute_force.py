"""The best placement of a tiny problem by trying all of them: an oracle that shares nothing with the solvers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from helix_df.graph.max_flow import placement_flow
from helix_df.graph.problem import Placement, Problem
from helix_df.layers import LayerRange


def placement_count(problem: Problem) -> int:
    """How many placements there are."""
    count = 1
    for node in problem.nodes:
        count *= 1 + sum(problem.num_layers - length + 1 for length in range(1, node.max_layers + 1))
    return count


def best_flow(problem: Problem) -> float:
    """The most flow of any placement, in tokens/s; nodes may stay empty."""
    return max(placement_flow(problem, placement).value for placement in all_placements(problem))


def all_placements(problem: Problem) -> Iterator[Placement]:
    """Every placement there is."""
    choices = [
        [
            None,
            *(LayerRange(s, s + k) for k in range(1, node.max_layers + 1) for s in range(problem.num_layers - k + 1)),
        ]
        for node in problem.nodes
    ]
    names = [node.name for node in problem.nodes]
    for ranges in product(*choices):
        yield {name: layers for name, layers in zip(names, ranges, strict=True) if layers}
