"""Which pipeline a request takes, and when it may start. Pure: used by the runtime and the simulator alike.

Source: Helix (arXiv 2406.01566), section 5: every request gets a pipeline of its own; each vertex of the flow graph
picks the next hop by interleaved weighted round-robin with the plan's flow as weights, and a node whose expected KV
use is over its high-water mark is left out. Knows nothing of sockets, clocks or models.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
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

    __slots__ = ("_total", "_weights", "credit", "names")

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.names = tuple(sorted(weights))
        self._weights = [weights[name] for name in self.names]
        # Added up as ``after`` does, so that both find the same to the last bit.
        self._total = reduce(add, self._weights, 0.0)
        self.credit = [0.0] * len(self.names)

    def weights(self) -> dict[str, float]:
        """Weights by name."""
        return dict(zip(self.names, self._weights, strict=True))

    def ranked(self, eligible: Iterable[int]) -> list[int]:
        """Eligible choices, the one whose turn it is first. Nothing is spent yet."""
        credit, weights = self.credit, self._weights
        return sorted(eligible, key=lambda at: (-(credit[at] + weights[at]), at))

    def next(self, eligible: Sequence[int]) -> tuple[int, list[float]]:
        """The first of ``ranked``, and the credit that its turn leaves. Nothing is spent yet."""
        chosen = self.ranked(eligible)[0]
        return chosen, self.after(chosen, eligible)

    def next_of_all(self) -> tuple[int, list[float]]:
        """``next`` when all are eligible, which they nearly always are: most of the work of routing."""
        if len(self.names) == 2:
            (one, other), (first, second) = self.credit, self._weights
            one += first
            other += second
            return (0, [one - self._total, other]) if one >= other else (1, [one, other - self._total])
        credit = list(map(add, self.credit, self._weights))
        richest = max(credit)
        chosen = credit.index(richest)
        credit[chosen] = richest - self._total
        return chosen, credit

    def after(self, chosen: int, eligible: Iterable[int]) -> list[float]:
        """The credit that a turn of ``chosen`` leaves. Nothing is spent yet."""
        credit, weights = self.credit.copy(), self._weights
        earned = 0.0
        for at in eligible:
            credit[at] += weights[at]
            earned += weights[at]
        credit[chosen] -= earned
        return credit

    def take(self, chosen: int, eligible: Iterable[int]) -> None:
        """Spend the turn on ``chosen``."""
        self.credit = self.after(chosen, eligible)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Hops that follow from the first without a choice; ``end`` is where the next choice is, or home."""

    hops: tuple[Hop, ...]
    rest: tuple[str, ...]
    end: str


@dataclass(frozen=True, slots=True)
class _Vertex:
    """Where a request may go from one endpoint: the first nodes, ``None`` for home, and what follows from each."""

    turns: WeightedTurns
    firsts: tuple[tuple[int, str | None], ...]
    names: tuple[str, ...]
    stretches: tuple[_Stretch, ...]

    def eligible(self, eligible: Callable[[str], bool]) -> list[int]:
        return [at for at, first in self.firsts if first is None or eligible(first)]


_Turn = tuple[_Vertex, int, list[float]]
"""A vertex that was passed, the choice taken there, and the credit that this leaves."""


class FlowRouter:
    """Pipelines in proportion to the plan's flow.

    A node that is not eligible loses its turns to its siblings; a way that ends nowhere costs no turn.
    """

    def __init__(self, placement: Placement, edges: Iterable[EdgeFlow]) -> None:
        weights: dict[str, dict[str, float]] = {}
        for edge in edges:
            if edge.tokens_per_s > 0:
                weights.setdefault(edge.tail, {})[edge.head] = edge.tokens_per_s
        self._turns = {tail: WeightedTurns(heads) for tail, heads in weights.items()}
        # Where there is only one way on, nobody has to choose: most nodes of a long plan.
        choices = {tail for tail, turns in self._turns.items() if len(turns.names) > 1} | {COORDINATOR}
        self._vertices = {
            tail: _vertex(turns, placement[tail].stop if tail != COORDINATOR else 0, self._turns, placement, choices)
            for tail, turns in self._turns.items()
            if tail in choices
        }

    @property
    def nodes(self) -> frozenset[str]:
        """Nodes that some pipeline may use."""
        return frozenset(self._turns) - {COORDINATOR}

    def turns(self) -> dict[str, dict[str, float]]:
        """Weights of the next hops from every endpoint; of equals, the first is taken."""
        return {tail: turns.weights() for tail, turns in self._turns.items()}

    def route(self, eligible: Callable[[str], bool]) -> Pipeline | None:
        """The pipeline whose turn it is; the round-robin state moves on only if there is one."""
        way = self._walk(eligible)
        if way is None:
            return None
        hops: list[Hop] = []
        for vertex, chosen, credit in way:
            vertex.turns.credit = credit
            hops += vertex.stretches[chosen].hops
        return tuple(hops)

    def exists(self, eligible: Callable[[str], bool]) -> bool:
        """Whether any pipeline leads through eligible nodes only; costs no turn."""
        return self._walk(eligible) is not None

    def _walk(self, eligible: Callable[[str], bool]) -> list[_Turn] | None:
        """To the next in turn at every vertex; only if that ends nowhere, look further."""
        way: list[_Turn] = []
        vertices = self._vertices
        here = COORDINATOR
        while (vertex := vertices.get(here)) is not None:
            if all(map(eligible, vertex.names)):
                chosen, credit = vertex.turns.next_of_all()
            elif choices := vertex.eligible(eligible):
                chosen, credit = vertex.turns.next(choices)
            else:
                break
            stretch = vertex.stretches[chosen]
            if stretch.rest and not all(map(eligible, stretch.rest)):
                break
            way.append((vertex, chosen, credit))
            here = stretch.end
            if here == COORDINATOR:
                return way
        return self._search(COORDINATOR, eligible, set())

    def _search(self, here: str, eligible: Callable[[str], bool], dead: set[str]) -> list[_Turn] | None:
        """Depth first, the next in turn first; ``dead`` are vertices that lead nowhere."""
        vertex = self._vertices.get(here)
        if vertex is None:
            return None
        choices = vertex.eligible(eligible)
        for chosen in vertex.turns.ranked(choices):
            stretch = vertex.stretches[chosen]
            if stretch.end in dead or not all(map(eligible, stretch.rest)):
                continue
            turn = (vertex, chosen, vertex.turns.after(chosen, choices))
            if stretch.end == COORDINATOR:
                return [turn]
            rest = self._search(stretch.end, eligible, dead)
            if rest is not None:
                return [turn, *rest]
            dead.add(stretch.end)
        return None


def _vertex(
    turns: WeightedTurns, done: int, ways: Mapping[str, WeightedTurns], placement: Placement, choices: Collection[str]
) -> _Vertex:
    stretches = tuple(_stretch(head, done, ways, placement, choices) for head in turns.names)
    firsts = tuple((at, stretch.hops[0].node if stretch.hops else None) for at, stretch in enumerate(stretches))
    names = tuple(first for _, first in firsts if first is not None)
    return _Vertex(turns, firsts, names, stretches)


def _stretch(
    head: str, done: int, ways: Mapping[str, WeightedTurns], placement: Placement, choices: Collection[str]
) -> _Stretch:
    """From ``head`` on; what leads nowhere ends at a node that isn't a vertex."""
    hops: list[Hop] = []
    while head != COORDINATOR:
        hops.append(Hop(head, LayerRange(done, placement[head].stop)))
        if head in choices or head not in ways:
            break
        done = placement[head].stop
        (head,) = ways[head].names
    return _Stretch(tuple(hops), tuple(hop.node for hop in hops[1:]), head)


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
        return self.admitting(expected, most)(node)

    def admitting(self, expected: int, most: int) -> Callable[[str], bool]:
        """``admits`` for one request and any node."""
        capacities, in_use, high_water = self.capacity.get, self.used.get, self.high_water

        def admits(node: str) -> bool:
            capacity = capacities(node, 0)
            if most > capacity:
                return False
            used = in_use(node, 0)
            return used == 0 or used + expected <= high_water * capacity

        return admits

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
