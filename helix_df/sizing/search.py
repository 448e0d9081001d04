"""The cheapest fleet that serves a rate, and what no fleet that serves it can cost less than.

Owns the order in which fleets are looked at, and what follows from it. Doesn't know how a fleet is judged or an integer
program solved.

Fleets come in the order of their cost, each the cheapest that meets every inequality known so far (``necessary``) and
isn't part of one that was looked at. One that breaks an inequality only teaches it; one that is judged unable takes its
parts with it, since whatever a part serves the whole serves, too. The first that serves ends the walk. So when it ends,
every fleet that costs less has been shown unable, or is among the *undecided* ones or a part of those: the cheapest
undecided one is the lower bound on cost, and where there is none the fleet is proven to be the cheapest.

Proof that undecided fleets bound the rest. A part of an undecided fleet costs less than it and doesn't break an
inequality only if it came before, since the order is that of cost and every price is above 0; so it was looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from helix_df.sizing.cheapest import CheapestFleet
from helix_df.sizing.judging import FleetJudge, Verdict
from helix_df.sizing.market import Fleet, Market, contains
from helix_df.sizing.necessary import Inequality, Necessary
from helix_df.sizing.settling import settle
from helix_df.solvers.api import Watch

ABOVE = 10
"""Fleets that are tried from above before the walk from below."""

MORE_FLOW = 1.25
"""Times the flow, or the last that wasn't enough, for which pipelines are chosen next from above."""

Ending = Literal["proven", "undecided", "fleets", "time", "interrupt"]


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to search.

    ``fleets``: fleets that are judged at most; work, which ends the same on every machine. ``time_limit_s``: a brake.
    """

    fleets: int = 300
    time_limit_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found.

    Attributes:
        best: the cheapest fleet that was found to serve, ``None`` without one.
        lower_units: no fleet that serves costs less, in millionths an hour; ``None`` when no fleet at all can serve.
        undecided: fleets that cost less than ``best`` and were neither shown to serve nor not to, cheapest first.
        judged: fleets that were judged; ``inequalities`` that rule out the others.
        ending: ``proven``, or why it isn't: fleets stay undecided, or the limit that ended the search.
        seconds: taken.
    """

    best: Verdict | None
    lower_units: int | None
    undecided: tuple[Verdict, ...]
    judged: int
    inequalities: int
    ending: Ending
    seconds: float


def find_cheapest(market: Market, judge: FleetJudge, effort: Effort, watch: Watch) -> Found:
    """Search for the cheapest fleet that serves the judge's rate."""
    search = _Search(market, judge, effort, watch)
    search.run()
    return search.found()


def lower_bound_units(market: Market, flow: float) -> int | None:
    """Millionths an hour below which no fleet has a flow (tokens/s), by inequalities alone; ``None``: none has it."""
    necessary, fleets = Necessary(market, flow), CheapestFleet(market)
    learnt = [one for one in [necessary.first()] if one is not None]
    while True:
        for inequality in learnt:
            fleets.require(inequality)
        fleet = fleets.next()
        learnt = [] if fleet is None else list(necessary.against(fleet))
        if not learnt:
            return None if fleet is None else market.cost_units(fleet)


class _Search:
    def __init__(self, market: Market, judge: FleetJudge, effort: Effort, watch: Watch) -> None:
        self.market, self.judge, self.effort, self.watch = market, judge, effort, watch
        self.started_s = watch.elapsed_s()
        self.deadline_s = self.started_s + effort.time_limit_s
        self.necessary = Necessary(market, judge.flow)
        self.fleets = CheapestFleet(market)
        self.inequalities = 0
        self.judged = 0
        self.best: Verdict | None = None
        self.undecided: dict[Fleet, Verdict] = {}
        self.said: set[str] = set()
        self.floor_units: int | None = 0
        """What every fleet that hasn't been looked at costs at least; ``None`` once there are no more."""

    def run(self) -> None:
        first = self.necessary.first()
        if first is not None:
            self._require(first)
        if self._cheapest_admitted() is None:
            return
        if self.judge.simulates:
            self._settle()
        else:
            self._from_above()
            self._walk()
            self._look_again()

    def found(self) -> Found:
        """What is known now."""
        undecided = sorted(self._cheaper(self.undecided.values()), key=lambda one: self._cost(one.fleet))
        floors = [self._cost(one.fleet) for one in undecided[:1]]
        if self.best is not None:
            floors.append(self._cost(self.best.fleet))
        if self.floor_units is not None:
            floors.append(self.floor_units)
        seconds = self.watch.elapsed_s() - self.started_s
        lower = min(floors, default=None)
        return Found(self.best, lower, tuple(undecided), self.judged, self.inequalities, self._ending(lower), seconds)

    def _ending(self, lower: int | None) -> Ending:
        if lower is None or (self.best is not None and lower == self._cost(self.best.fleet)):
            return "proven"
        if self.watch.stop.is_set():
            return "interrupt"
        if self._late():
            return "time"
        return "fleets" if self.judged >= self.effort.fleets else "undecided"

    def _cheapest_admitted(self) -> Fleet | None:
        """The cheapest fleet that meets what is known, and can be learnt, of all that serve."""
        while not self._stop():
            fleet = self.fleets.next()
            self.floor_units = None if fleet is None else self._cost(fleet)
            learnt = [] if fleet is None else list(self.necessary.against(fleet))
            for inequality in learnt:
                self._require(inequality)
            if not learnt:
                return fleet
        return None

    def _walk(self) -> None:
        """Judge fleets in the order of cost until one serves or costs as much as the best."""
        while not self._stop():
            fleet = self._cheapest_admitted()
            if fleet is None or not self._beats(fleet):
                return
            if fleet not in self.undecided:
                self._look(fleet, 0)
            self.fleets.exclude(fleet)

    def _from_above(self) -> None:
        """Some fleet that serves: the cheapest whose pipelines could serve as much as is asked for, or more.

        Once one does, halving the step from one that doesn't brings both together.
        """
        low, high = 0.0, None
        factor = 1.0
        for _ in range(ABOVE):
            serves = self._try_from_above(factor)
            if serves:
                high = factor
            else:
                low = factor
            if self._stop() or (serves and factor == 1.0):
                return
            factor = MORE_FLOW * max(low, 1.0) if high is None else (low + high) / 2

    def _settle(self) -> None:
        """In simulation fleets of a flow that just suffices don't serve, and there is no end of them: so no walk."""
        for verdict in settle(self.judge, self._stop):
            self._keep(verdict)

    def _try_from_above(self, factor: float) -> bool:
        packed = self.judge.pipelines.cheapest(self.judge.flow * factor, least=self.floor_units or 0)
        if packed is None:
            return False
        fleet, placement = packed
        if fleet in self.undecided:
            return False
        if self.best is not None and fleet == self.best.fleet:
            return True
        return self._keep(self.judge.of_placement(fleet, placement)).answer == "serves"

    def _look_again(self) -> None:
        """More effort for what is undecided, cheapest first; the rest is moot once one of them serves."""
        for fleet in sorted(self.undecided, key=self._cost):
            if self._stop() or not self._beats(fleet):
                return
            self._look(fleet, 1)

    def _look(self, fleet: Fleet, effort: int) -> Verdict:
        return self._keep(self.judge.verdict(fleet, effort, self.deadline_s))

    def _keep(self, verdict: Verdict) -> Verdict:
        """Remember a verdict and what follows from it."""
        fleet = verdict.fleet
        self.judged += 1
        said = f"{self.market.words(fleet)} at {self.market.cost(fleet):,.2f} an hour: {verdict.answer}"
        if said not in self.said:
            self.said.add(said)
            self.watch.say("size", said)
        self.undecided.pop(fleet, None)
        if verdict.answer == "undecided":
            self.undecided[fleet] = verdict
        if verdict.answer == "serves" and self._beats(fleet):
            self.best = verdict
        if verdict.answer == "unable":
            self.undecided = {other: one for other, one in self.undecided.items() if not contains(fleet, other)}
        return verdict

    def _require(self, inequality: Inequality) -> None:
        self.inequalities += 1
        self.fleets.require(inequality)

    def _beats(self, fleet: Fleet) -> bool:
        return self.best is None or self._cost(fleet) < self._cost(self.best.fleet)

    def _cheaper(self, verdicts: Iterable[Verdict]) -> list[Verdict]:
        return [one for one in verdicts if self._beats(one.fleet)]

    def _cost(self, fleet: Fleet) -> int:
        return self.market.cost_units(fleet)

    def _late(self) -> bool:
        return self.watch.elapsed_s() >= self.deadline_s

    def _stop(self) -> bool:
        return self.watch.stop.is_set() or self._late() or self.judged >= self.effort.fleets
