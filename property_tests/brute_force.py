"""The best placement of a tiny problem by trying all of them: an oracle that shares nothing with the solvers."""

from __future__ import annotations

from itertools import product

from helix_df.graph.max_flow import placement_flow
from helix_df.graph.problem import Problem
from helix_df.layers import LayerRange


def placement_count(problem: Problem) -> int:
    """How many placements there are."""
    count = 1
    for node in problem.nodes:
        count *= 1 + sum(problem.num_layers - length + 1 for length in range(1, node.max_layers + 1))
    return count


def best_flow(problem: Problem) -> float:
    """The most flow of any placement, in tokens/s; nodes may stay empty."""
    choices = [
        [
            None,
            *(LayerRange(s, s + k) for k in range(1, node.max_layers + 1) for s in range(problem.num_layers - k + 1)),
        ]
        for node in problem.nodes
    ]
    names = [node.name for node in problem.nodes]
    return max(
        placement_flow(problem, {name: layers for name, layers in zip(names, ranges, strict=True) if layers}).value
        for ranges in product(*choices)
    )
