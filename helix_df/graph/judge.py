"""The maximum flow of many placements of one problem, as fast as arrays allow.

Owns the numbers that don't depend on a placement (what nodes serve by layers held, what links carry, in integer units)
and the flow's value alone. ``max_flow`` gives the whole flow with names and a cut, from the same numbers. Doesn't
search.
"""

from __future__ import annotations

import numpy as np
from ortools.graph.python import max_flow as ortools_max_flow

from helix_df.graph.arcs import MOST_UNITS, SINK, SOURCE, connect, entry, exit_of, joinable, to_units
from helix_df.graph.capacities import Floats, Ints, capacity_matrix
from helix_df.graph.flow import RESOLUTION
from helix_df.graph.link_classes import LinkClasses
from helix_df.graph.max_flow import solve_arcs
from helix_df.graph.problem import Placement, Problem
from helix_df.layers import LayerRange

GROUPED = 64
"""Placed nodes from which alike ones are counted together: with fewer, finding them takes longer than it saves."""


class Judge:
    """Values placements of one problem; nodes are positions in ``problem.nodes``.

    A placement is two arrays, ``start`` and ``count``; a count of 0 leaves the node out.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.num_layers = problem.num_layers
        self.partial = problem.partial_inference
        self.most = np.array([node.max_layers for node in problem.nodes], dtype=np.int64)
        self.capacity = capacity_matrix(problem)
        """Tokens/s of node ``i`` with ``k`` layers at ``[i, k]``; 0 for none and for more than fit."""
        self.links = LinkClasses(problem)
        self._capacity_units = to_units(self.capacity)
        self._entry_units, self._exit_units = to_units(self.links.enters), to_units(self.links.leaves)
        self._class_units = to_units(self.links.between)
        alike = np.column_stack([self.links.code, self._entry_units, self._exit_units, self._capacity_units])
        self._kind = np.unique(alike, axis=0, return_inverse=True)[1].reshape(-1)

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
        """The maximum flow in tokens/s, exact to ``RESOLUTION`` a link.

        Nodes that hold the same layers, serve the same and have the same links are one node with all of their capacity:
        what flows through them together can always be shared out evenly, which is within what each of them and each of
        their links carries.
        """
        used = np.flatnonzero(count)
        alike = None
        if len(used) >= GROUPED:
            layers = self.num_layers + 1
            place = (self._kind[used] * layers + start[used]) * layers + count[used]
            _, first, alike = np.unique(place, return_index=True, return_counts=True)
            used = used[first]
        solver = self._solve(start, count, used, alike)
        return float(solver.optimal_flow() * RESOLUTION) if solver is not None else 0.0

    def link_flows(self, start: Ints, count: Ints) -> tuple[Ints, Ints, Floats] | None:
        """Tail, head and tokens/s of every link of a maximum flow; the coordinator is one past the last node.

        ``None`` when nothing flows. As much as ``max_flow`` finds, but perhaps another of several such flows.
        """
        used = np.flatnonzero(count)
        solver = self._solve(start, count, used)
        if solver is None or not solver.optimal_flow():
            return None
        arcs = np.arange(len(used), solver.num_arcs())
        ends = np.append(np.repeat(used, 2), 0)
        place = np.array([[solver.tail(arc), solver.head(arc)] for arc in arcs.tolist()])
        tail, head = (np.where(side <= SINK, len(start), ends[side - 2]) for side in place.T)
        return tail, head, solver.flows(arcs) * RESOLUTION

    def _solve(
        self, start: Ints, count: Ints, used: Ints, alike: Ints | None = None
    ) -> ortools_max_flow.SimpleMaxFlow | None:
        """The max flow of the nodes ``used``, each of which stands for as many as ``alike`` says; ``None`` for none."""
        begin, stop = start[used], (start + count)[used]
        # Most placements that a search tries carry nothing: seen before anything is built.
        if begin.min(initial=1) > 0 or stop.max(initial=0) < self.num_layers:
            return None
        joins = joinable(begin, stop, self.partial) & self.links.block(used)
        enters, leaves = self.links.enters[used] > 0, self.links.leaves[used] > 0
        arcs = connect(begin, stop, self.num_layers, joins, enters, leaves, self.problem.limits.max_hops)
        if not len(arcs.first) or not len(arcs.last):
            return None
        each = np.arange(len(used))
        source, sink = np.full(len(arcs.first), SOURCE), np.full(len(arcs.last), SINK)
        tails = np.concatenate([entry(each), source, exit_of(arcs.tail), exit_of(arcs.last)])
        heads = np.concatenate([exit_of(each), entry(arcs.first), entry(arcs.head), sink])
        code = self.links.code[used]
        units = np.concatenate(
            [
                self._capacity_units[used, count[used]],
                self._entry_units[used][arcs.first],
                self._class_units[code[arcs.tail], code[arcs.head]],
                self._exit_units[used][arcs.last],
            ]
        )
        if alike is not None:
            pairs = alike[arcs.tail] * alike[arcs.head]
            times = np.concatenate([alike, alike[arcs.first], pairs, alike[arcs.last]])
            # In floating point, since the capacity of a link that never binds times many nodes is beyond 63 bits.
            units = np.minimum(units.astype(np.float64) * times, MOST_UNITS).astype(np.int64)
        return solve_arcs(tails, heads, units, len(used))
