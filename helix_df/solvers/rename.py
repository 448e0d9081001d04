"""Which of several identical nodes holds which range: the choice that moves the fewest bytes.

Owns the exchange of ranges among nodes that serve alike, as an assignment problem. What links make of the exchange is
for the max flow to judge.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from ortools.graph.python import linear_sum_assignment

from helix_df.graph.capacities import Ints
from helix_df.solvers.objective import Objective

RESOLUTION = 1e-3
"""Tokens/s of one unit of cost, which the assignment counts in integers."""


def renamed(objective: Objective, start: Ints, count: Ints) -> tuple[Ints, Ints]:
    """The same ranges, given to identical nodes of a region such that moving there costs least."""
    start, count = start.copy(), count.copy()
    for group in identical(objective):
        ranges = [(int(start[i]), int(count[i])) for i in group]
        for node, place in zip(group, _assigned(objective, group, ranges), strict=True):
            start[node], count[node] = ranges[place]
    return start, count


def identical(objective: Objective) -> list[list[int]]:
    """Positions of nodes that serve alike in the same region and that no limit names, in groups of two and more."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, node in enumerate(objective.judge.problem.nodes):
        if i not in objective.fixed and not objective.least[i] and node.max_layers:
            key = (node.tokens_per_s, node.kv_tokens, node.nic_bytes_per_s, node.region)
            groups.setdefault(key, []).append(i)
    return [group for group in groups.values() if len(group) > 1]


def _assigned(objective: Objective, group: list[int], ranges: list[tuple[int, int]]) -> list[int]:
    """For each node of the group the position of its range."""
    solver = linear_sum_assignment.SimpleLinearSumAssignment()
    for (row, node), (column, (first, layers)) in product(enumerate(group), enumerate(ranges)):
        start, count = np.zeros_like(objective.judge.most), np.zeros_like(objective.judge.most)
        start[node], count[node] = first, layers
        solver.add_arc_with_cost(row, column, round(objective.cost(start, count) / RESOLUTION))
    if solver.solve() != solver.OPTIMAL:
        raise AssertionError("a complete assignment problem has a solution")
    return [solver.right_mate(row) for row in range(len(group))]
