"""Which pipeline a request takes, and when it may start. Pure: used by the runtime and the simulator alike.

Source: Helix (arXiv 2406.01566), section 5: every request gets a pipeline of its own; each vertex of the flow graph
picks the next hop by interleaved weighted round-robin with the plan's flow as weights, and a node whose expected KV
use is over its high-water mark is left out. Knows nothing of sockets, clocks or models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from helix_df.graph.flow import EdgeFlow, Hop
from helix_df.graph.problem import COORDINATOR, Placement
from helix_df.layers import LayerRange

Pipeline = tuple[Hop, ...]
"""The stages of one request, in order; together they run every layer exactly once."""


class Router(Protocol):
    """Anything that picks pipelines."""

    def route(self, eligible: Callable[[str], bool]) -> Pipeline | None:
        """A pipeline through eligible nodes only, or ``None`` when there is none at present."""
        ...


Ways = Mapping[str, tuple[str, ...]]
"""The next hops from every endpoint, ``COORDINATOR`` being where requests come from and tokens go."""


def ways_home(pairs: Collection[tuple[str, str]]) -> Ways:
    """The ways of (tail, head) pairs, without hops from which none leads back to the coordinator."""
    back: dict[str, list[str]] = {}
    for tail, head in pairs:
        back.setdefault(head, []).append(tail)
    home = {COORDINATOR}
    frontier = [COORDINATOR]
    while frontier:
        for tail in back.get(frontier.pop(), ()):
            if tail not in home:
                home.add(tail)
                frontier.append(tail)
    ways: dict[str, list[str]] = {}
    for tail, head in pairs:
        if head in home:
            ways.setdefault(tail, []).append(head)
    return {tail: tuple(heads) for tail, heads in ways.items()}


def leads_home(ways: Ways, eligible: Callable[[str], bool]) -> bool:
    """Whether any pipeline leads through eligible nodes only."""
    seen: set[str] = set()
    frontier = list(ways.get(COORDINATOR, ()))
    while frontier:
        name = frontier.pop()
        if name == COORDINATOR:
            return True
        if name not in seen and eligible(name):
            seen.add(name)
            frontier += ways.get(name, ())
    return False


class WeightedTurns:
    """Interleaved weighted round-robin over named choices, which go by their place in ``names``.

    Every turn each eligible choice earns its weight as credit, the richest is taken and pays what all earned. Over
    any stretch of turns in which eligibility doesn't change, a choice is taken in proportion to its weight, give or
    take one turn, and never in bursts.
    """

    __slots__ = ("_credit", "_weights", "names")

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.names = tuple(sorted(weights))
        self._weights = [weights[name] for name in self.names]
        self._credit = [0.0] * len(self.names)

    def weights(self) -> dict[str, float]:
        """Weights by name."""
        return dict(zip(self.names, self._weights, strict=True))

    def ranked(self, eligible: Iterable[int]) -> list[int]:
        """Eligible choices, the one whose turn it is first. Nothing is spent yet."""
        credit, weights = self._credit, self._weights
        return sorted(eligible, key=lambda at: (-(credit[at] + weights[at]), at))

    def next(self, eligible: Iterable[int]) -> int:
        """The first of ``ranked``."""
        credit, weights = self._credit, self._weights
        chosen, richest = -1, -math.inf
        for at in eligible:
            wealth = credit[at] + weights[at]
            if wealth > richest:
                chosen, richest = at, wealth
        return chosen

    def take(self, chosen: int, eligible: Iterable[int]) -> None:
        """Spend the turn on ``chosen``."""
        credit, weights = self._credit, self._weights
        earned = 0.0
        for at in eligible:
            credit[at] += weights[at]
            earned += weights[at]
        credit[chosen] -= earned


@dataclass(frozen=True, slots=True)
class _Vertex:
    """Where a request may go from one endpoint, and the hop that each choice is; ``None`` is the way home."""

    turns: WeightedTurns
    hops: tuple[Hop | None, ...]

    def eligible(self, eligible: Callable[[str], bool]) -> list[int]:
        return [at for at, hop in enumerate(self.hops) if hop is None or eligible(hop.node)]


_Turn = tuple[_Vertex, int, list[int]]
"""A vertex that was passed, the choice taken there, and those that were eligible."""


class FlowRouter:
    """Pipelines in proportion to the plan's flow.

    A node that is not eligible loses its turns to its siblings; a way that ends nowhere costs no turn.
    """

    def __init__(self, placement: Placement, edges: Iterable[EdgeFlow]) -> None:
        weights: dict[str, dict[str, float]] = {}
        for edge in edges:
            if edge.tokens_per_s > 0:
                weights.setdefault(edge.tail, {})[edge.head] = edge.tokens_per_s
        self._vertices = {tail: _vertex(tail, heads, placement) for tail, heads in weights.items()}

    @property
    def nodes(self) -> frozenset[str]:
        """Nodes that some pipeline may use."""
        return frozenset(self._vertices) - {COORDINATOR}

    def turns(self) -> dict[str, dict[str, float]]:
        """Weights of the next hops from every endpoint; of equals, the first is taken."""
        return {tail: vertex.turns.weights() for tail, vertex in self._vertices.items()}

    def route(self, eligible: Callable[[str], bool]) -> Pipeline | None:
        """The pipeline whose turn it is; the round-robin state moves on only if there is one."""
        way = self._walk(eligible)
        if way is None:
            return None
        hops = []
        for vertex, chosen, choices in way:
            if len(vertex.hops) > 1:
                vertex.turns.take(chosen, choices)
            hop = vertex.hops[chosen]
            if hop is not None:
                hops.append(hop)
        return tuple(hops)

    def exists(self, eligible: Callable[[str], bool]) -> bool:
        """Whether any pipeline leads through eligible nodes only; costs no turn."""
        return self._walk(eligible) is not None

    def _walk(self, eligible: Callable[[str], bool]) -> list[_Turn] | None:
        """To the next in turn at every vertex; only if that ends nowhere, look further."""
        way: list[_Turn] = []
        here = COORDINATOR
        while (vertex := self._vertices.get(here)) is not None:
            choices = vertex.eligible(eligible)
            if not choices:
                break
            chosen = vertex.turns.next(choices) if len(choices) > 1 else choices[0]
            way.append((vertex, chosen, choices))
            hop = vertex.hops[chosen]
            if hop is None:
                return way
            here = hop.node
        return self._search(COORDINATOR, eligible, set())

    def _search(self, here: str, eligible: Callable[[str], bool], dead: set[str]) -> list[_Turn] | None:
        """Depth first, the next in turn first; ``dead`` are nodes that lead nowhere."""
        vertex = self._vertices.get(here)
        if vertex is None:
            return None
        choices = vertex.eligible(eligible)
        for chosen in vertex.turns.ranked(choices):
            hop = vertex.hops[chosen]
            if hop is None:
                return [(vertex, chosen, choices)]
            if hop.node in dead:
                continue
            rest = self._search(hop.node, eligible, dead)
            if rest is not None:
                return [(vertex, chosen, choices), *rest]
            dead.add(hop.node)
        return None


def _vertex(tail: str, heads: Mapping[str, float], placement: Placement) -> _Vertex:
    turns = WeightedTurns(heads)
    done = placement[tail].stop if tail != COORDINATOR else 0
    hops = (None if head == COORDINATOR else Hop(head, LayerRange(done, placement[head].stop)) for head in turns.names)
    return _Vertex(turns, tuple(hops))


@dataclass(slots=True)
class KvLedger:
    """Tokens of KV cache that requests are expected to use, node by node.

    ``capacity`` is in tokens. A request enters a node when the expected use, its own included, stays under
    ``high_water`` times the capacity, or when the node is empty and the request fits it whole.
    """

    capacity: dict[str, int]
    high_water: float
    used: dict[str, int] = field(default_factory=dict)
    _held: dict[str, tuple[tuple[str, ...], int]] = field(default_factory=dict)

    def admits(self, node: str, expected: int, most: int) -> bool:
        """Whether ``node`` may take a request of ``expected`` tokens that can grow to ``most``."""
        capacity = self.capacity.get(node, 0)
        if most > capacity:
            return False
        used = self.used.get(node, 0)
        return used == 0 or used + expected <= self.high_water * capacity

    def reserve(self, request: str, nodes: Iterable[str], expected: int) -> None:
        """Count a request on its nodes.

        Raises:
            ValueError: if it is counted already.
        """
        if request in self._held:
            raise ValueError(f"{request} holds KV already")
        names = tuple(nodes)
        self._held[request] = (names, expected)
        for node in names:
            self.used[node] = self.used.get(node, 0) + expected

    def release(self, request: str) -> None:
        """Forget a request; one that isn't counted is none of the ledger's business."""
        names, expected = self._held.pop(request, ((), 0))
        for node in names:
            self.used[node] -= expected
