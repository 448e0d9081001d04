"""What a search wants of a placement: flow, less what moving there costs, and the job's limits kept.

Owns the worth of a placement and whether it is allowed. Doesn't make or change placements.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from helix_df.graph.capacities import Ints, request_matrix
from helix_df.graph.judge import Judge
from helix_df.layers import LayerRange
from helix_df.plan.moves import Near


class Objective:
    """Worth and admission of placements given as the arrays of a ``Judge``."""

    def __init__(self, judge: Judge, near: Near | None = None) -> None:
        self.judge = judge
        self.near = near if near is not None and near.tokens_per_s_per_gib > 0 else None
        problem = judge.problem
        limits = problem.limits
        self.requests = request_matrix(problem) if limits.min_requests else None
        """Requests whose KV cache fits on node ``i`` beside ``k`` layers, where a limit asks for some."""
        self.least = np.array([int(node.name in limits.required) for node in problem.nodes], dtype=np.int64)
        """Fewest layers that each node holds."""
        self.fixed = {
            i: (limits.fixed[node.name].start, len(limits.fixed[node.name]))
            for i, node in enumerate(problem.nodes)
            if node.name in limits.fixed
        }
        """Start and count of nodes whose layers are pinned."""
        self._load = lru_cache(maxsize=2**18)(self._load_cost)

    def cost(self, start: Ints, count: Ints) -> float:
        """What moving to the placement costs, in tokens/s; 0 where nothing runs that it should stay near to."""
        if self.near is None:
            return 0.0
        held = zip(start.tolist(), count.tolist(), strict=True)
        return sum(self._load(i, s, k) for i, (s, k) in enumerate(held) if k)

    def _load_cost(self, node: int, start: int, count: int) -> float:
        assert self.near is not None
        return self.near.cost({self.judge.problem.nodes[node].name: LayerRange(start, start + count)})

    def keep_nodes(self, start: Ints, count: Ints) -> tuple[Ints, Ints]:
        """The placement with pinned nodes where they must be, and required ones with at least a layer."""
        start, count = start.copy(), np.maximum(count, np.minimum(self.least, self.judge.most))
        for node, (first, layers) in self.fixed.items():
            start[node], count[node] = first, layers
        return np.minimum(start, self.judge.num_layers - count), count

    def covered_requests(self, start: Ints, count: Ints) -> Ints:
        """Requests whose KV cache fits on each layer, where a limit asks for some; shape (layers,)."""
        change = np.zeros(self.judge.num_layers + 1, dtype=np.int64)
        if self.requests is not None:
            fit = self.requests[np.arange(len(start)), count]
            np.add.at(change, start, fit)
            np.add.at(change, start + count, -fit)
        return np.cumsum(change)[:-1]

    def admits(self, start: Ints, count: Ints) -> bool:
        """Whether all limits are kept but the depth, which the flow graph keeps by itself."""
        if (count < self.least).any():
            return False
        if any((start[i], count[i]) != place for i, place in self.fixed.items()):
            return False
        wanted = self.judge.problem.limits.min_requests
        return not wanted or bool(self.covered_requests(start, count).min() >= wanted)
