"""Which pipeline a request takes, and when it may start. Pure: used by the runtime and the simulator alike.

Source: Helix (arXiv 2406.01566), section 5: every request gets a pipeline of its own; each vertex of the flow graph
picks the next hop by interleaved weighted round-robin with the plan's flow as weights, and a node whose expected KV
use is over its high-water mark is left out. Knows nothing of sockets, clocks or models.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from helix_df.graph.flow import EdgeFlow, Hop, hops_of
from helix_df.graph.problem import COORDINATOR, Placement

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


@dataclass(slots=True)
class WeightedTurns:
    """Interleaved weighted round-robin over named choices.

    Every turn each eligible choice earns its weight as credit, the richest is taken and pays what all earned. Over
    any stretch of turns in which eligibility doesn't change, a choice is taken in proportion to its weight, give or
    take one turn, and never in bursts.
    """

    weights: Mapping[str, float]
    credit: dict[str, float] = field(default_factory=dict)

    def ranked(self, eligible: Iterable[str]) -> list[str]:
        """Eligible choices, the one whose turn it is first. Nothing is spent yet."""
        return sorted(eligible, key=lambda name: (-(self.credit.get(name, 0.0) + self.weights[name]), name))

    def take(self, chosen: str, eligible: Collection[str]) -> None:
        """Spend the turn on ``chosen``."""
        for name in eligible:
            self.credit[name] = self.credit.get(name, 0.0) + self.weights[name]
        self.credit[chosen] -= sum(self.weights[name] for name in eligible)


class FlowRouter:
    """Pipelines in proportion to the plan's flow.

    A node that is not eligible loses its turns to its siblings; a way that ends nowhere costs no turn.
    """

    def __init__(self, placement: Placement, edges: Iterable[EdgeFlow]) -> None:
        self._placement = placement
        weights: dict[str, dict[str, float]] = {}
        for edge in edges:
            if edge.tokens_per_s > 0:
                weights.setdefault(edge.tail, {})[edge.head] = edge.tokens_per_s
        self._turns = {tail: WeightedTurns(heads) for tail, heads in weights.items()}

    @property
    def nodes(self) -> frozenset[str]:
        """Nodes that some pipeline may use."""
        return frozenset(self._turns) - {COORDINATOR}

    def route(self, eligible: Callable[[str], bool]) -> Pipeline | None:
        """The pipeline whose turn it is; the round-robin state moves on only if there is one."""
        names = self._search(COORDINATOR, eligible, dead=set())
        if names is None:
            return None
        for tail, head in zip([COORDINATOR, *names], [*names, COORDINATOR], strict=True):
            turns = self._turns[tail]
            turns.take(head, [name for name in turns.weights if name == COORDINATOR or eligible(name)])
        return hops_of(names, self._placement)

    def exists(self, eligible: Callable[[str], bool]) -> bool:
        """Whether any pipeline leads through eligible nodes only; costs no turn."""
        return self._search(COORDINATOR, eligible, dead=set()) is not None

    def _search(self, here: str, eligible: Callable[[str], bool], dead: set[str]) -> list[str] | None:
        """Depth first, the next in turn first, so that only a dead end makes it look further."""
        turns = self._turns.get(here)
        if turns is None:
            return None
        for head in turns.ranked(name for name in turns.weights if name not in dead):
            if head == COORDINATOR:
                return []
            if eligible(head):
                rest = self._search(head, eligible, dead)
                if rest is not None:
                    return [head, *rest]
            dead.add(head)
        return None


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
