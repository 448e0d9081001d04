"""The flow over what is up: as much of the plan's as is left, and as much more as other hops carry. Pure.

Used by the runtime and the simulator alike, whose coordinator has no solver: a maximum flow by shortest augmenting
paths (Dinic 1970) on whole units, since few of them are needed where only what was lost has to find another way. What
looks at every hop works on columns, since a fleet has hundreds of thousands and requests wait meanwhile.
Knows nothing of requests, sockets or clocks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from helix_df.graph.capacities import Floats, Ints
from helix_df.graph.flow import RESOLUTION, EdgeFlow
from helix_df.graph.flow_graph import NOBODY, EdgeTable, FlowGraph
from helix_df.graph.problem import COORDINATOR

_SOURCE, _SINK = 0, 1

_MOST_UNITS = 2**62


def mended_flow(
    ways: FlowGraph,
    planned: Iterable[EdgeFlow],
    is_up: Callable[[str], bool],
    cut: Collection[tuple[str, str]] = (),
) -> tuple[EdgeFlow, ...]:
    """A maximum flow over the nodes that are up, next to the plan's.

    First as much as the plan's own hops carry with the flow that it gave them, so that requests keep their ways; then
    whatever every possible hop and node can carry beside that. While all nodes are up it is the plan's flow itself.

    Args:
        ways: every possible hop of the placement, with capacities in tokens/s.
        planned: the plan's flow.
        is_up: whether a node serves.
        cut: hops, tail and head, that carry nothing now though both of their nodes are up.

    Returns:
        The hops that carry something, in the order of ``ways``.
    """
    planned = tuple(planned)
    up = [is_up(node.name) for node in ways.nodes]
    if not cut and all(up):
        return planned
    table = ways.table
    hops = _Hops(table)
    uncut = np.ones(len(table), dtype=np.bool_)
    uncut[hops.found(list(cut))[0]] = False
    network = _Network(table, _units(np.array([node.capacity for node in ways.nodes])) * np.array(up, dtype=np.int64))
    network.allow(hops.units_of(planned) * uncut)
    network.augment()
    network.allow(_units(table.capacity) * uncut)
    network.augment()
    carried = network.carried()
    used = np.flatnonzero(carried).tolist()
    return tuple(EdgeFlow(*table.ends(edge), int(carried[edge]) * RESOLUTION) for edge in used)


def _units(tokens_per_s: Floats) -> Ints:
    return np.minimum(tokens_per_s / RESOLUTION, float(_MOST_UNITS)).astype(np.int64)


class _Hops:
    """Finds hops of a table by the names of their ends."""

    def __init__(self, table: EdgeTable) -> None:
        self._place = {name: at for at, name in enumerate(table.names)} | {COORDINATOR: NOBODY}
        self._keys = self._key(table.tail, table.head)
        self._order = np.argsort(self._keys, kind="stable")
        self._sorted = self._keys[self._order]

    def _key(self, tails: Ints, heads: Ints) -> Ints:
        return (tails + 1) * (len(self._place) + 1) + heads + 1

    def found(self, hops: Sequence[tuple[str, str]]) -> tuple[Ints, Ints]:
        """Positions in the table of those hops that are there, and which of the given ones these are."""
        known = [at for at, hop in enumerate(hops) if hop[0] in self._place and hop[1] in self._place]
        tails = np.array([self._place[hops[at][0]] for at in known], dtype=np.int64)
        heads = np.array([self._place[hops[at][1]] for at in known], dtype=np.int64)
        if not len(self._sorted) or not known:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        keys = self._key(tails, heads)
        places = np.minimum(np.searchsorted(self._sorted, keys), len(self._sorted) - 1)
        here = self._sorted[places] == keys
        return self._order[places[here]], np.array(known, dtype=np.int64)[here]

    def units_of(self, flow: Sequence[EdgeFlow]) -> Ints:
        """What a flow sends over each hop of the table."""
        units = np.zeros(len(self._keys), dtype=np.int64)
        at, which = self.found([(edge.tail, edge.head) for edge in flow])
        units[at] = _units(np.array([edge.tokens_per_s for edge in flow], dtype=np.float64))[which]
        return units


class _Network:
    """Arcs in pairs, each with what it still carries: one forward, one back at the next number.

    Every node is two vertices with its capacity between them, since requests share it whichever way they come. The
    nodes' arcs are the first ones.
    """

    def __init__(self, table: EdgeTable, node_units: Ints) -> None:
        self._nodes = len(node_units)
        nodes = np.arange(self._nodes, dtype=np.int64)
        tails = np.concatenate([2 * nodes + 2, np.where(table.tail == NOBODY, _SOURCE, 2 * table.tail + 3)])
        heads = np.concatenate([2 * nodes + 3, np.where(table.head == NOBODY, _SINK, 2 * table.head + 2)])
        self._vertices = 2 * self._nodes + 2
        self._tails = np.column_stack([tails, heads]).reshape(-1)
        self._heads = np.column_stack([heads, tails]).reshape(-1)
        self._left = np.zeros(len(self._tails), dtype=np.int64)
        self._left[: 2 * self._nodes : 2] = node_units
        self._by_tail = np.argsort(self._tails, kind="stable")
        self._by_head = np.argsort(self._heads, kind="stable")
        self._first_out = np.searchsorted(self._tails[self._by_tail], np.arange(self._vertices + 1))
        self._first_in = np.searchsorted(self._heads[self._by_head], np.arange(self._vertices + 1))

    def allow(self, units: Ints) -> None:
        """Let each hop carry so much in all, what it carries already included."""
        forward, back = self._left[2 * self._nodes :: 2], self._left[2 * self._nodes + 1 :: 2]
        forward[:] = np.maximum(0, units - back)

    def carried(self) -> Ints:
        """What each hop carries."""
        return self._left[2 * self._nodes + 1 :: 2]

    def augment(self) -> None:
        """Send all that still fits, along shortest ways first."""
        while (onward := self._onward()) is not None:
            # How many arcs of a vertex lead nowhere any more, at these levels.
            spent = [0] * self._vertices
            while path := self._path(onward, spent):
                units = min(self._left[path])
                for arc in path:
                    self._left[arc] -= units
                    self._left[arc ^ 1] += units

    def _onward(self) -> list[list[int]] | None:
        """The arcs of each vertex that are on a shortest way to the sink; ``None`` when there is no way left."""
        free = self._left > 0
        levels = self._levels(_SOURCE, free, self._by_tail, self._first_out, self._heads)
        if levels[_SINK] < 0:
            return None
        steps = free & (levels[self._tails] >= 0) & (levels[self._heads] == levels[self._tails] + 1)
        steps &= self._levels(_SINK, steps, self._by_head, self._first_in, self._tails)[self._heads] >= 0
        arcs = self._by_tail[steps[self._by_tail]]
        ends = np.searchsorted(self._tails[arcs], np.arange(self._vertices + 1)).tolist()
        listed = arcs.tolist()
        return [listed[ends[at] : ends[at + 1]] for at in range(self._vertices)]

    def _levels(self, start: int, free: NDArray[np.bool_], arcs: Ints, first: Ints, ends: Ints) -> Ints:
        """Fewest arcs from a vertex to every other; -1 where none lead. ``arcs`` of a vertex begin at ``first``."""
        levels = np.full(self._vertices, -1, dtype=np.int64)
        levels[start] = 0
        frontier = np.array([start], dtype=np.int64)
        for level in range(1, self._vertices):
            here = arcs[_ranges(first[frontier], first[frontier + 1])]
            found = ends[here[free[here]]]
            frontier = np.unique(found[levels[found] < 0])
            if not len(frontier):
                break
            levels[frontier] = level
        return levels

    def _path(self, onward: list[list[int]], spent: list[int]) -> list[int]:
        """Arcs from source to sink, each a level up; none when there is no such way left."""
        path: list[int] = []
        here = _SOURCE
        while here != _SINK:
            arcs = onward[here]
            while spent[here] < len(arcs) and self._left[arcs[spent[here]]] <= 0:
                spent[here] += 1
            if spent[here] < len(arcs):
                path.append(arcs[spent[here]])
                here = int(self._heads[path[-1]])
                continue
            if not path:
                return []
            here = int(self._tails[path.pop()])
            spent[here] += 1
        return path


def _ranges(starts: Ints, stops: Ints) -> Ints:
    """All numbers of some half-open ranges, one after another."""
    sizes = stops - starts
    before = np.cumsum(sizes) - sizes
    numbers: Ints = np.arange(int(sizes.sum()), dtype=np.int64) + np.repeat(starts - before, sizes)
    return numbers
