"""The flow over what is up: as much of the plan's as is left, and as much more as other hops carry. Pure.

Used by the runtime and the simulator alike, whose coordinator has no solver: a maximum flow by shortest augmenting
paths (Dinic 1970) on whole units, since few of them are needed where only what was lost has to find another way.
Knows nothing of requests, sockets or clocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from helix_df.graph.flow import RESOLUTION, EdgeFlow
from helix_df.graph.flow_graph import FlowGraph
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
    if not cut and all(is_up(node.name) for node in ways.nodes):
        return planned
    ways = replace(ways, edges=tuple(edge for edge in ways.edges if (edge.tail, edge.head) not in cut))
    network = _Network(ways, is_up)
    network.allow({(edge.tail, edge.head): _units(edge.tokens_per_s) for edge in planned})
    network.augment()
    network.allow({(edge.tail, edge.head): _units(edge.capacity) for edge in ways.edges})
    network.augment()
    return network.edges()


def _units(tokens_per_s: float) -> int:
    return int(min(tokens_per_s / RESOLUTION, _MOST_UNITS))


class _Network:
    """Arcs in pairs, each with what it still carries: one forward, one back at the next number.

    Every node is two vertices with its capacity between them, since requests share it whichever way they come.
    """

    def __init__(self, ways: FlowGraph, is_up: Callable[[str], bool]) -> None:
        self.ways = ways
        entries = {node.name: 2 * at + 2 for at, node in enumerate(ways.nodes)}
        self.arcs_of: list[list[int]] = [[] for _ in range(2 * len(ways.nodes) + 2)]
        self.heads: list[int] = []
        self.left: list[int] = []
        for node in ways.nodes:
            self._join(entries[node.name], entries[node.name] + 1, _units(node.capacity) if is_up(node.name) else 0)
        self.hops = {}
        for edge in ways.edges:
            tail = _SOURCE if edge.tail == COORDINATOR else entries[edge.tail] + 1
            head = _SINK if edge.head == COORDINATOR else entries[edge.head]
            self.hops[edge.tail, edge.head] = self._join(tail, head, 0)

    def _join(self, tail: int, head: int, units: int) -> int:
        arc = len(self.heads)
        self.heads += [head, tail]
        self.left += [units, 0]
        self.arcs_of[tail].append(arc)
        self.arcs_of[head].append(arc + 1)
        return arc

    def allow(self, units: dict[tuple[str, str], int]) -> None:
        """Let hops carry so much in all, what they carry already included."""
        for hop, most in units.items():
            arc = self.hops.get(hop)
            if arc is not None:
                self.left[arc] = max(0, most - self.left[arc + 1])

    def augment(self) -> None:
        """Send all that still fits, along shortest ways first."""
        while (levels := self._levels())[_SINK] >= 0:
            # How many arcs of a vertex lead nowhere any more, at these levels.
            spent = [0] * len(self.arcs_of)
            while path := self._path(levels, spent):
                units = min(self.left[arc] for arc in path)
                for arc in path:
                    self.left[arc] -= units
                    self.left[arc ^ 1] += units

    def _levels(self) -> list[int]:
        """Fewest arcs from the source to every vertex; -1 where none lead."""
        levels = [-1] * len(self.arcs_of)
        levels[_SOURCE] = 0
        frontier = deque([_SOURCE])
        while frontier:
            here = frontier.popleft()
            for arc in self.arcs_of[here]:
                head = self.heads[arc]
                if self.left[arc] > 0 and levels[head] < 0:
                    levels[head] = levels[here] + 1
                    frontier.append(head)
        return levels

    def _path(self, levels: list[int], spent: list[int]) -> list[int]:
        """Arcs from source to sink, each a level up; none when there is no such way left."""
        path: list[int] = []
        here = _SOURCE
        while here != _SINK:
            arcs = self.arcs_of[here]
            while spent[here] < len(arcs):
                arc = arcs[spent[here]]
                head = self.heads[arc]
                if self.left[arc] > 0 and levels[head] == levels[here] + 1:
                    break
                spent[here] += 1
            else:
                if not path:
                    return []
                here = self.heads[path.pop() ^ 1]
                spent[here] += 1
                continue
            path.append(arcs[spent[here]])
            here = self.heads[path[-1]]
        return path

    def edges(self) -> tuple[EdgeFlow, ...]:
        """What hops carry."""
        carried = ((edge, self.left[self.hops[edge.tail, edge.head] + 1]) for edge in self.ways.edges)
        return tuple(EdgeFlow(edge.tail, edge.head, units * RESOLUTION) for edge, units in carried if units > 0)
