"""Which pipeline a request takes, and when it may start. Pure: used by the runtime and the simulator alike.

Source: Helix (arXiv 2406.01566), section 5: every request gets a pipeline of its own; each vertex of the flow graph
picks the next hop by interleaved weighted round-robin (IWRR) with the plan's flow as weights, and a node whose expected
KV use is over its high-water mark is left out. Here IWRR is its *smooth* form, nginx's: where the classical one goes
round after round through the choices with weight left, and so needs whole weights, this one gives each choice credit by
its weight and takes the richest, which works for any weights and never takes one choice in bursts. Both take each in
proportion to its weight. Knows nothing of sockets, clocks or models.
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
from helix_df.rules.admission import admits

Pipeline = tuple[Hop, ...]
"""The stages of one request, in order; together they run every layer exactly once."""


class Router(Protocol):
    """Anything that picks pipelines."""

    def route(self, eligible: Callable[[str], bool]) -> Pipeline | None:
        """A pipeline through eligible nodes only, or ``None`` when there is none at present."""
        ...


Adjacency = Mapping[str, tuple[str, ...]]
"""The next hops from every endpoint; ``COORDINATOR`` is both source, where requests come from, and sink."""


def leading_to_sink(edges: Collection[tuple[str, str]]) -> Adjacency:
    """The adjacency of (tail, head) edges, without those from which no path leads to the sink."""
    back: dict[str, list[str]] = {}
    for tail, head in edges:
        back.setdefault(head, []).append(tail)
    reach = {COORDINATOR}
    frontier = [COORDINATOR]
    while frontier:
        for tail in back.get(frontier.pop(), ()):
            if tail not in reach:
                reach.add(tail)
                frontier.append(tail)
    heads: dict[str, list[str]] = {}
    for tail, head in edges:
        if head in reach:
            heads.setdefault(tail, []).append(head)
    return {tail: tuple(found) for tail, found in heads.items()}


def has_path(adjacency: Adjacency, eligible: Callable[[str], bool]) -> bool:
    """Whether any path from source to sink leads through eligible nodes only."""
    seen: set[str] = set()
    frontier = list(adjacency.get(COORDINATOR, ()))
    while frontier:
        name = frontier.pop()
        if name == COORDINATOR:
            return True
        if name not in seen and eligible(name):
            seen.add(name)
            frontier += adjacency.get(name, ())
    return False


class SmoothRoundRobin:
    """Smooth weighted round-robin over named choices, which go by their place in ``names``.

    Every turn each eligible choice earns its weight as credit, the richest is taken and pays what all earned. Over
    any segment of turns in which eligibility doesn't change, a choice is taken in proportion to its weight, give or
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
class _Segment:
    """Hops that follow from the first without a choice; ``end`` is where the next choice is, or home."""

    hops: tuple[Hop, ...]
    rest: tuple[str, ...]
    end: str


@dataclass(frozen=True, slots=True)
class _Vertex:
    """Where a request may go from one endpoint: the first nodes, ``None`` for home, and what follows from each."""

    turns: SmoothRoundRobin
    firsts: tuple[tuple[int, str | None], ...]
    names: tuple[str, ...]
    segments: tuple[_Segment, ...]

    def eligible(self, eligible: Callable[[str], bool]) -> list[int]:
        return [at for at, first in self.firsts if first is None or eligible(first)]


_Turn = tuple[_Vertex, int, list[float]]
"""A vertex that was passed, the choice taken there, and the credit that this leaves."""


class FlowRouter:
    """Pipelines in proportion to the plan's flow.

    A node that is not eligible loses its turns to its siblings; a path that ends nowhere costs no turn.
    """

    def __init__(self, placement: Placement, edges: Iterable[EdgeFlow]) -> None:
        weights: dict[str, dict[str, float]] = {}
        for edge in edges:
            if edge.tokens_per_s > 0:
                weights.setdefault(edge.tail, {})[edge.head] = edge.tokens_per_s
        self._turns = {tail: SmoothRoundRobin(heads) for tail, heads in weights.items()}
        # Where there is only one next hop, nobody has to choose: most nodes of a long plan.
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
        path = self._walk(eligible)
        if path is None:
            return None
        hops: list[Hop] = []
        for vertex, chosen, credit in path:
            vertex.turns.credit = credit
            hops += vertex.segments[chosen].hops
        return tuple(hops)

    def exists(self, eligible: Callable[[str], bool]) -> bool:
        """Whether any pipeline leads through eligible nodes only; costs no turn."""
        return self._walk(eligible) is not None

    def _walk(self, eligible: Callable[[str], bool]) -> list[_Turn] | None:
        """To the next in turn at every vertex; only if that ends nowhere, look further."""
        path: list[_Turn] = []
        vertices = self._vertices
        here = COORDINATOR
        while (vertex := vertices.get(here)) is not None:
            if all(map(eligible, vertex.names)):
                chosen, credit = vertex.turns.next_of_all()
            elif choices := vertex.eligible(eligible):
                chosen, credit = vertex.turns.next(choices)
            else:
                break
            segment = vertex.segments[chosen]
            if segment.rest and not all(map(eligible, segment.rest)):
                break
            path.append((vertex, chosen, credit))
            here = segment.end
            if here == COORDINATOR:
                return path
        return self._search(COORDINATOR, eligible, set())

    def _search(self, here: str, eligible: Callable[[str], bool], dead: set[str]) -> list[_Turn] | None:
        """Depth first, the next in turn first; ``dead`` are vertices that lead nowhere."""
        vertex = self._vertices.get(here)
        if vertex is None:
            return None
        choices = vertex.eligible(eligible)
        for chosen in vertex.turns.ranked(choices):
            segment = vertex.segments[chosen]
            if segment.end in dead or not all(map(eligible, segment.rest)):
                continue
            turn = (vertex, chosen, vertex.turns.after(chosen, choices))
            if segment.end == COORDINATOR:
                return [turn]
            rest = self._search(segment.end, eligible, dead)
            if rest is not None:
                return [turn, *rest]
            dead.add(segment.end)
        return None


def _vertex(
    turns: SmoothRoundRobin,
    done: int,
    turns_of: Mapping[str, SmoothRoundRobin],
    placement: Placement,
    choices: Collection[str],
) -> _Vertex:
    segments = tuple(_segment(head, done, turns_of, placement, choices) for head in turns.names)
    firsts = tuple((at, segment.hops[0].node if segment.hops else None) for at, segment in enumerate(segments))
    names = tuple(first for _, first in firsts if first is not None)
    return _Vertex(turns, firsts, names, segments)


def _segment(
    head: str, done: int, turns_of: Mapping[str, SmoothRoundRobin], placement: Placement, choices: Collection[str]
) -> _Segment:
    """From ``head`` on; what leads nowhere ends at a node that isn't a vertex."""
    hops: list[Hop] = []
    while head != COORDINATOR:
        hops.append(Hop(head, LayerRange(done, placement[head].stop)))
        if head in choices or head not in turns_of:
            break
        done = placement[head].stop
        (head,) = turns_of[head].names
    return _Segment(tuple(hops), tuple(hop.node for hop in hops[1:]), head)


@dataclass(slots=True)
class KvLedger:
    """Tokens of KV cache that requests are expected to use, node by node.

    ``capacity`` is in tokens. Whether a request enters a node is for ``admission.admits`` to say.
    """

    capacity: dict[str, int]
    high_water: float
    used: dict[str, int] = field(default_factory=dict)
    _held: dict[str, dict[str, int]] = field(default_factory=dict)

    def admits(self, node: str, expected: int, most: int) -> bool:
        """Whether ``node`` may take a request of ``expected`` tokens that can grow to ``most``."""
        return self.admitting(expected, most)(node)

    def admitting(self, expected: int, most: int) -> Callable[[str], bool]:
        """``admits`` for one request and any node."""
        capacity, used, high_water = self.capacity.get, self.used.get, self.high_water
        return lambda node: admits(used(node, 0), expected, most, capacity(node, 0), high_water)

    def reserve(self, request: str, expected: Mapping[str, int]) -> None:
        """Count what a request is expected to use, by node.

        Raises:
            ValueError: if it is counted already.
        """
        if request in self._held:
            raise ValueError(f"{request} holds KV already")
        self._held[request] = dict(expected)
        for node, tokens in expected.items():
            self.used[node] = self.used.get(node, 0) + tokens

    def release(self, request: str) -> None:
        """Forget a request; one that isn't counted is none of the ledger's business."""
        for node, tokens in self._held.pop(request, {}).items():
            self.used[node] -= tokens
