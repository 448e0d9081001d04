"""The maximum flow of many placements of one problem, as fast as arrays allow.

Owns the numbers that don't depend on a placement (what nodes serve by layers held, what links carry, in integer units)
and the flow's value alone. ``max_flow`` gives the whole flow with names and a cut, from the same numbers. Doesn't
search.
"""

from __future__ import annotations

import numpy as np
from ortools.graph.python import max_flow as ortools_max_flow

from helix_df.graph.capacities import Floats, Ints, link_matrix, speed_matrix
from helix_df.graph.flow import RESOLUTION
from helix_df.graph.limits import Bools, within_hops
from helix_df.graph.problem import Placement, Problem
from helix_df.layers import LayerRange

MOST_UNITS = 2**52
"""Capacities are cut off here: far above any node's, and small enough that sums fit in 63 bits."""


def _units(tokens_per_s: Floats) -> Ints:
    return np.minimum(tokens_per_s / RESOLUTION, MOST_UNITS).astype(np.int64)


class Judge:
    """Values placements of one problem; nodes are positions in ``problem.nodes``.

    A placement is two arrays, ``start`` and ``count``; a count of 0 leaves the node out.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.num_layers = problem.num_layers
        self.partial = problem.partial_inference
        self.most = np.array([node.max_layers for node in problem.nodes], dtype=np.int64)
        self.speed = speed_matrix(problem)
        """Tokens/s of node ``i`` with ``k`` layers at ``[i, k]``; 0 for none and for more than fit."""
        self.links = link_matrix(problem)
        self._speed_units = _units(self.speed)
        self._link_units = _units(self.links)

    def arrays(self, placement: Placement) -> tuple[Ints, Ints]:
        """``start`` and ``count`` of a placement."""
        start = np.zeros(len(self.problem.nodes), dtype=np.int64)
        count = np.zeros_like(start)
        for i, node in enumerate(self.problem.nodes):
            layers = placement.get(node.name)
            if layers is not None:
                start[i], count[i] = layers.start, len(layers)
        return start, count

    def placement(self, start: Ints, count: Ints) -> Placement:
        """The placement with names."""
        return {
            node.name: LayerRange(int(s), int(s + k))
            for node, s, k in zip(self.problem.nodes, start, count, strict=True)
            if k
        }

    def flow(self, start: Ints, count: Ints) -> float:
        """The maximum flow in tokens/s, exact to ``RESOLUTION`` a link."""
        solver, _ = self._solve(start, count)
        return float(solver.optimal_flow() * RESOLUTION) if solver is not None else 0.0

    def link_flows(self, start: Ints, count: Ints) -> tuple[Ints, Ints, Floats] | None:
        """Tail, head and tokens/s of every link of a maximum flow; the coordinator is one past the last node.

        ``None`` when nothing flows. As much as ``max_flow`` finds, but perhaps another of several such flows.
        """
        solver, used = self._solve(start, count)
        if solver is None or not solver.optimal_flow():
            return None
        arcs = np.arange(len(used), solver.num_arcs())
        ends = np.append(np.repeat(used, 2), 0)
        place = np.array([[solver.tail(arc), solver.head(arc)] for arc in arcs.tolist()])
        # Vertices 0 and 1 are the coordinator, 2 + 2i and 3 + 2i the two sides of the i-th node used.
        tail, head = (np.where(side < 2, len(start), ends[side - 2]) for side in place.T)
        return tail, head, solver.flows(arcs) * RESOLUTION

    def _solve(self, start: Ints, count: Ints) -> tuple[ortools_max_flow.SimpleMaxFlow | None, Ints]:
        used = np.flatnonzero(count)
        begin, stop = start[used], (start + count)[used]
        first, last = np.flatnonzero(begin == 0), np.flatnonzero(stop == self.num_layers)
        if not len(first) or not len(last):
            return None, used
        if self.partial:
            joins = (begin[None, :] <= stop[:, None]) & (stop[:, None] < stop[None, :])
        else:
            joins = stop[:, None] == begin[None, :]
        if self.problem.limits.max_hops is not None:
            joins, last = self._shallow(used, joins, first, last, stop, self.problem.limits.max_hops)
        capacity = np.where(joins, self._link_units[np.ix_(used, used)], 0)
        tail, head = np.nonzero(capacity)
        each = np.arange(len(used))
        nodes = self._speed_units[used, count[used]]
        coordinator = self._link_units[-1, used]
        tails = np.concatenate([2 + 2 * each, np.zeros_like(first), 3 + 2 * tail, 3 + 2 * last])
        heads = np.concatenate([3 + 2 * each, 2 + 2 * first, 2 + 2 * head, np.ones_like(last)])
        units = np.concatenate([nodes, coordinator[first], capacity[tail, head], coordinator[last]])
        solver = ortools_max_flow.SimpleMaxFlow()
        # No flow exceeds what all nodes carry together, so clamping links to one more changes no cut and no overflow.
        solver.add_arcs_with_capacity(
            tails.astype(np.int32), heads.astype(np.int32), np.minimum(units, int(nodes.sum()) + 1)
        )
        status = solver.solve(0, 1)
        if status != solver.OPTIMAL:
            raise AssertionError(f"max flow ended with {status} on {len(used)} nodes")
        return solver, used

    def _shallow(
        self, used: Ints, joins: Bools, first: Ints, last: Ints, stop: Ints, max_hops: int
    ) -> tuple[Bools, Ints]:
        """What a limit on hops leaves of the links between nodes and of the nodes that requests leave from."""
        door = self.links[-1, used] > 0
        enters, leaves = np.zeros(len(used), dtype=np.bool_), np.zeros(len(used), dtype=np.bool_)
        enters[first], leaves[last] = door[first], door[last]
        linked = joins & (self.links[np.ix_(used, used)] > 0)
        joins, leaves = within_hops(linked, enters, leaves, stop, max_hops)
        return joins, np.flatnonzero(leaves)
