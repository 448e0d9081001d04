"""A request's spans as values, and how its time is shared among what it went through. No clock, no OpenTelemetry.

A request's steps go round: from the coordinator over every hop of its route and back. Each process times what happens
at its own place by its own clock, so the sums over many steps suffice to say how long each place took; what is left of
a round is what the links took. How that is shared among the links follows from when steps left and came, by clocks
that are set against each other (``clocks``); the sum doesn't depend on that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

Attribute = str | bool | int | float | Sequence[str]


@dataclass(frozen=True, slots=True)
class TimedSpan:
    """Something that took from ``start_s`` to ``stop_s`` (s, of one monotonic clock), with what it was made of.

    ``error`` says in a word why it didn't do what it was to.
    """

    name: str
    start_s: float
    stop_s: float
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    children: tuple[TimedSpan, ...] = ()
    error: str | None = None

    @property
    def duration_s(self) -> float:
        """How long it took."""
        return self.stop_s - self.start_s

    def leaves(self) -> Iterator[TimedSpan]:
        """Those in it that nothing else is in."""
        if not self.children:
            yield self
        for child in self.children:
            yield from child.leaves()


@dataclass(frozen=True, slots=True)
class HopSum:
    """What a worker did about all ``steps`` of a kind together, in seconds: they came ``arrived_s`` after some moment,
    summed up over the steps, then waited, and were computed."""

    steps: int = 0
    arrived_s: float = 0.0
    waited_s: float = 0.0
    computed_s: float = 0.0

    @property
    def taken_s(self) -> float:
        """From arrival to departure."""
        return self.waited_s + self.computed_s

    @property
    def left_s(self) -> float:
        """Their departures, summed up as their arrivals are."""
        return self.arrived_s + self.taken_s

    def since(self, moment_s: float) -> HopSum:
        """The same with arrivals counted from a moment that is so much earlier."""
        return replace(self, arrived_s=self.arrived_s + self.steps * moment_s)

    def plus(self, arrived_s: float, waited_s: float, computed_s: float) -> HopSum:
        """The same with a step more."""
        return HopSum(
            self.steps + 1, self.arrived_s + arrived_s, self.waited_s + waited_s, self.computed_s + computed_s
        )


@dataclass(frozen=True, slots=True)
class Shares:
    """How the rounds of a request's steps were spent, in seconds: ``hops`` as waiting and computing, and ``links``, of
    which there is one more: from the coordinator, between hops, and home."""

    hops: tuple[tuple[float, float], ...]
    links: tuple[float, ...]

    @property
    def whole_s(self) -> float:
        """All of it."""
        return sum(map(sum, self.hops)) + sum(self.links)


def shares(sent_s: float, came_s: float, hops: Sequence[HopSum], *, comparable: bool = True) -> Shares:
    """How long each hop and each link took, of steps that were sent and came home at these times, summed up over them.

    The shares add up to ``came_s - sent_s``, and none is below 0, whatever clocks say: where hops say that they took
    longer than the whole, they took it in the proportion that they say. Links share what hops leave in proportion to
    the times between departure and arrival; where those say nothing, or aren't ``comparable``, equally.
    """
    whole_s = max(0.0, came_s - sent_s)
    spent = [(max(0.0, hop.waited_s), max(0.0, hop.computed_s)) for hop in hops]
    hops_s = sum(map(sum, spent))
    if hops_s > whole_s:
        spent = [(waited * whole_s / hops_s, computed * whole_s / hops_s) for waited, computed in spent]
    left_s = max(0.0, whole_s - sum(map(sum, spent)))
    ends = [(sent_s, sent_s), *((hop.arrived_s, hop.left_s) for hop in hops), (came_s, came_s)]
    between = [max(0.0, arrived - left) for (_, left), (arrived, _) in pairwise(ends)]
    total = sum(between)
    if comparable and total > 0:
        return Shares(tuple(spent), tuple(left_s * one / total for one in between))
    return Shares(tuple(spent), (left_s / len(between),) * len(between))


def in_a_row(spans: Sequence[tuple[str, float, Mapping[str, Attribute]]], start_s: float) -> tuple[TimedSpan, ...]:
    """Spans of these names and durations (s), each from where the one before it stops."""
    found = []
    for name, duration_s, attributes in spans:
        found.append(TimedSpan(name, start_s, start_s + duration_s, attributes))
        start_s += duration_s
    return tuple(found)
