"""What a flow is: links with tokens/s, the cut that proves it maximal, and the pipelines it splits into.

Plain data and its arithmetic; finding a maximum flow is ``max_flow``'s work. Imported by the runtime, so it stays free
of solvers.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass

from helix_df.graph.problem import COORDINATOR, Placement
from helix_df.layers import LayerRange

RESOLUTION = 1e-6
"""Tokens/s of one unit of integer flow."""


@dataclass(frozen=True, slots=True)
class EdgeFlow:
    """Tokens/s that the maximum flow sends along one link."""

    tail: str
    head: str
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class MinCut:
    """What binds: saturated nodes and links whose capacities add up to the flow."""

    nodes: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    capacity: float


@dataclass(frozen=True, slots=True)
class Flow:
    """A maximum flow: its value in tokens/s, the flow of every used link, and a cut that proves it maximal."""

    value: float
    edges: tuple[EdgeFlow, ...]
    cut: MinCut

    def through(self, node: str) -> float:
        """Tokens/s that pass ``node``."""
        return sum(edge.tokens_per_s for edge in self.edges if edge.head == node)


@dataclass(frozen=True, slots=True)
class Hop:
    """One stage of a request's way: a node and the layers the request runs there."""

    node: str
    layers: LayerRange


@dataclass(frozen=True, slots=True)
class FlowPath:
    """A path of the decomposition and the tokens/s it carries."""

    hops: tuple[Hop, ...]
    tokens_per_s: float


def decompose(layers: Placement, edges: tuple[EdgeFlow, ...]) -> tuple[FlowPath, ...]:
    """Split a flow over placed layers into paths from coordinator to coordinator, the widest next link first.

    Every path exhausts one link's remaining flow, so there are at most as many paths as links. Layer positions only
    grow along a link, hence the flow has no cycles and the paths carry all of it.
    """
    remaining: _Remaining = {}
    for edge in edges:
        remaining.setdefault(edge.tail, []).append((round(edge.tokens_per_s / RESOLUTION), edge.head))
    for links in remaining.values():
        links.sort()
    paths = []
    while remaining.get(COORDINATOR):
        names, units = _widest_path(remaining)
        for tail in (COORDINATOR, *names):
            left, head = remaining[tail].pop()
            if left > units:
                insort(remaining[tail], (left - units, head))
        paths.append(FlowPath(hops_of(names, layers), units * RESOLUTION))
    return tuple(sorted(paths, key=lambda path: (-path.tokens_per_s, [hop.node for hop in path.hops])))


_Remaining = dict[str, list[tuple[int, str]]]
"""Units of flow left from each node, and whither, the widest link last."""


def _widest_path(remaining: _Remaining) -> tuple[list[str], int]:
    names: list[str] = []
    here, width = COORDINATOR, 2**63
    while True:
        units, head = remaining[here][-1]
        width = min(width, units)
        if head == COORDINATOR:
            return names, width
        names.append(head)
        here = head


def hops_of(names: Sequence[str], layers: Placement) -> tuple[Hop, ...]:
    """The stages of a path: each node runs from where the one before stopped to its own end."""
    hops = []
    position = 0
    for name in names:
        hops.append(Hop(name, LayerRange(position, layers[name].stop)))
        position = layers[name].stop
    return tuple(hops)
