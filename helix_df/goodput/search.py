"""The search for the placement that serves most: estimates to find candidates, simulations to choose among them.

Owns the order of work: starts that the flow finds, annealing on the estimate, auditions in the simulator, climbing
there, and finals on requests that the search has never seen. Doesn't know how a task is performed (``workshop``).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from helix_df.goodput.brief import WHOLE_S
from helix_df.goodput.crew import Crew
from helix_df.goodput.workshop import (
    Audition,
    Bar,
    Explore,
    Final,
    Ranges,
    Scored,
    Task,
    Workshop,
    arrays,
    change,
    different,
    excess,
    ranges_of,
)
from helix_df.graph.even_flow import SPREADS, Spread
from helix_df.graph.problem import Placement
from helix_df.solvers.api import SolveOptions, Watch
from helix_df.solvers.cover import CoverOptions, CoverSearch
from helix_df.solvers.neighbours import Neighbours
from helix_df.solvers.portfolio import baselines, best_baseline
from helix_df.solvers.rename import identical

FIRST: Spread = "swift"
"""The maximum flow that placements are tried with first: mostly the best."""

CHAINS = 2
"""Explorations, side by side."""

ROUND = 8
"""Placements that are simulated side by side. Fixed, so that a seed gives the same plan on every machine."""

STARTS_SHARE, EXPLORE_SHARE, AUDITION_SHARE, ORDERS_SHARE, CLIMB_SHARE = 0.05, 0.15, 0.25, 0.35, 0.93
"""Shares of the time limit after which a phase makes room for the next, if its work isn't done before."""

ORDERS_ESTIMATED = 24
"""Random orders that are estimated for each that is simulated."""

ELITES = 4
"""Placements that climbing goes on from."""

PROPOSALS = 6
"""Changes that are estimated for each one that is simulated."""

TRUST = 0.1
"""How far chance may lift or lower an estimate when one of the proposals is chosen."""

OTHER_SPREAD = 0.2
"""Share of changes that also take another of the maximum flows."""

FINAL = 1000
"""What is added to the seed for the finals."""

LENIENT, PATIENCE = 0.5, 200
"""How much a missed limit on latency costs at first, and after how many simulations it costs one more.

What serves much and misses a limit is nearer to what serves much and keeps it than what keeps it from the start.
"""

UNTRIED = 0.9
"""Worth of a placement whose latency nobody has looked at, as a share of its throughput."""

EFFORT = CoverOptions(restarts=2, iterations=1500, polish=300)
"""Of the searches for starts of different depths."""


class GoodputSearch:
    """One search, by counted work and within a time limit."""

    def __init__(self, workshop: Workshop, crew: Crew, watch: Watch, time_limit_s: float, seed: int) -> None:
        self.workshop, self.crew, self.watch = workshop, crew, watch
        self.own = workshop.brief.own
        self.chance = random.Random(seed)
        self.seed = seed
        self.begin_s, self.time_limit_s = watch.elapsed_s(), time_limit_s
        self.alike = identical(workshop.objective)
        self.tried: set[tuple[Ranges, Spread]] = set()
        self.simulated: list[Scored] = []
        self.seconds = 0.0

    def run(self) -> list[Scored]:
        """Placements judged on held-out requests, the one with most throughput first; empty when none serves."""
        starts = self._starts()
        if not starts:
            return []
        found = self._explore(starts)
        self._audition([*(Scored(0.0, start) for start in starts), *found])
        self._climb()
        return self._finals()

    def _until(self, share: float) -> Callable[[], bool]:
        deadline_s = self.begin_s + share * self.time_limit_s
        return lambda: self.watch.stop.is_set() or self.watch.elapsed_s() >= deadline_s

    def _starts(self) -> list[Ranges]:
        """The rules' placements, and what ``cover`` finds with pipelines of different depths."""
        problem, judge = self.workshop.problem, self.workshop.judge
        stop = self._until(STARTS_SHARE)
        options = SolveOptions(time_limit_s=self.time_limit_s, seed=self.seed)
        placements: list[Placement] = [placement for _, placement in baselines(problem, options, self.watch)]
        for max_hops in self._depths():
            limits = replace(problem.limits, max_hops=max_hops)
            given = replace(problem, limits=limits)
            deadline_s = self.begin_s + STARTS_SHARE * self.time_limit_s
            watch = Watch()
            watch.stop = self.watch.stop
            search = CoverSearch(given, options, EFFORT, watch, deadline_s, best_baseline(given, options, watch))
            search.run()
            if search.best is not None:
                placements.append(search.best)
            if stop():
                break
        starts = (ranges_of(*self.workshop.objective.keep_nodes(*judge.arrays(one))) for one in placements)
        return [start for start in dict.fromkeys(starts) if self._worth(start) > 0]

    def _depths(self) -> Iterator[int | None]:
        """Limits on hops around the fewest that hold the model, and none."""
        problem = self.workshop.problem
        yield problem.limits.max_hops
        most = max(int(self.workshop.judge.most.max()), 1)
        fewest = -(-problem.num_layers // most)
        for factor in (1.25, 1.5, 1.75, 2.0, 2.5):
            hops = round(fewest * factor)
            if problem.limits.max_hops is None or hops < problem.limits.max_hops:
                yield hops

    def _worth(self, ranges: Ranges) -> float:
        return self.workshop.value(*arrays(ranges))

    def _explore(self, starts: Sequence[Ranges]) -> list[Scored]:
        best_first = sorted(starts, key=lambda start: (-self._worth(start), start))[:6]
        tasks = [
            Explore(self.chance.getrandbits(32), self.own.explore, tuple(best_first[lane:] + best_first[:lane]))
            for lane in range(CHAINS)
        ]
        found = [one for part in self.crew.perform(tasks, self._until(EXPLORE_SHARE)) for one in part]
        return different(sorted(found, key=lambda one: (-one.score, one.ranges)), self.own.auditions)

    def _audition(self, candidates: Sequence[Scored]) -> None:
        ordered = sorted(candidates, key=lambda one: (-max(one.score, self._worth(one.ranges)), one.ranges))
        # All simulations of the search are as long as those of the candidate that promises most may be.
        self.seconds = self.workshop.window_s(ordered[0].ranges, self.own.visits, WHOLE_S)
        stop = self._until(AUDITION_SHARE)
        for at in range(0, len(ordered), ROUND):
            if self.simulated and stop():
                return
            bar = self._bar()
            new = (one for one in ordered[at : at + ROUND] if self._untried(one.ranges, FIRST))
            tasks = [self._new(one.ranges, FIRST, bar) for one in new]
            # The very first simulations are run whatever the time, so that there is something to choose from.
            self._simulate(tasks, stop if self.simulated else self.watch.stop.is_set)

    def _bar(self) -> Bar:
        """What a placement must be better than to be among the elites."""
        elites = self._best(ELITES)
        if len(elites) < ELITES:
            return Bar(self.seconds)
        rank = self._rank(elites[-1])
        # What keeps all limits may serve less and rank as high.
        share = rank / elites[-1].score
        return Bar(self.seconds, rank, tuple((time_s, share * tokens) for time_s, tokens in elites[-1].pace))

    def _simulate(self, tasks: Sequence[Task], stop: Callable[[], bool]) -> None:
        for part in self.crew.perform(tasks, stop):
            for one in part:
                if one.score > 0:
                    best = self._best(1)
                    if not best or self._rank(one) > self._rank(best[0]):
                        self.watch.report("goodput", one.score, None)
                    self.simulated.append(one)

    def _rank(self, one: Scored) -> float:
        """Generated tokens/s, less what limits on latency that it misses, or hasn't been tried on, take from it."""
        if self.workshop.brief.judges_latency and one.ttft_p95_s is None:
            return UNTRIED * one.score
        strict = LENIENT + len(self.tried) / PATIENCE
        return float(one.score / (1 + self._excess(one)) ** strict)

    def _excess(self, one: Scored) -> float:
        return excess(one, self.workshop.brief.job.limits)

    def _best(self, most: int) -> list[Scored]:
        return different(sorted(self.simulated, key=self._place), most)

    def _climb(self) -> None:
        self._try_orders(self._until(ORDERS_SHARE))
        self._try_spreads(self._until(ORDERS_SHARE))
        stop = self._until(CLIMB_SHARE)
        for _ in range(0, self.own.climbs, ROUND):
            if stop() or not self.simulated:
                return
            elites, bar = self._best(ELITES), self._bar()
            changed = (self._changed(elites) for _ in range(ROUND))
            self._simulate([self._new(*one, bar) for one in changed if one is not None], stop)

    def _new(self, ranges: Ranges, spread: Spread, bar: Bar) -> Audition:
        self.tried.add((self._sorted(ranges), spread))
        return Audition(ranges, bar, spread)

    def _untried(self, ranges: Ranges, spread: Spread) -> bool:
        return (self._sorted(ranges), spread) not in self.tried

    def _sorted(self, ranges: Ranges) -> Ranges:
        """The same for all placements that differ in which of identical nodes holds what."""
        placed = list(ranges)
        for group in self.alike:
            for node, place in zip(group, sorted(ranges[node] for node in group), strict=True):
                placed[node] = place
        return tuple(placed)

    def _changed(self, elites: Sequence[Scored]) -> tuple[Ranges, Spread] | None:
        """A change of one of the elites that nobody has tried: the one of a few that promises most."""
        # The best is changed as often as all others together.
        elite = elites[0] if self.chance.random() < 0.5 else self.chance.choice(elites)
        proposals: list[tuple[float, Ranges, Spread]] = []
        for _ in range(PROPOSALS):
            near = Neighbours(self.workshop.objective, *arrays(elite.ranges), self.chance)
            for _ in range(self.chance.choice((1, 1, 1, 2)) if near.usable else 0):
                change(near)
            spread = self.chance.choice(SPREADS) if self.chance.random() < OTHER_SPREAD else elite.spread
            ranges = ranges_of(near.start, near.count)
            if self._untried(ranges, spread):
                worth = self.workshop.value(near.start, near.count) * self.chance.uniform(1 - TRUST, 1 + TRUST)
                proposals.append((worth, ranges, spread))
        if not proposals:
            return None
        return max(proposals)[1:]

    def _try_spreads(self, stop: Callable[[], bool]) -> None:
        """The other maximum flows of the best placements."""
        if stop():
            return
        bar = self._bar()
        others = [(one.ranges, spread) for one in self._best(ELITES) for spread in SPREADS if spread != one.spread]
        self._simulate([self._new(*one, bar) for one in others if self._untried(*one)], stop)

    def _try_orders(self, stop: Callable[[], bool]) -> None:
        """Other orders of the best placements' stages, which the estimate can't tell apart but simulations do."""
        for _ in range(0, self.own.orders, ROUND):
            if stop() or not self.simulated:
                return
            elites = self._best(ELITES)
            bar = self._bar()
            orders = (self._permuted(self.chance.choice(elites).ranges) for _ in range(ROUND))
            self._simulate([self._new(one, FIRST, bar) for one in orders if self._untried(one, FIRST)], stop)

    def _permuted(self, ranges: Ranges) -> Ranges:
        """Of a few other orders the one with the best estimate, which sees links between sites."""
        tried = []
        for _ in range(ORDERS_ESTIMATED):
            near = Neighbours(self.workshop.objective, *arrays(ranges), self.chance)
            near.permute()
            tried.append(ranges_of(near.start, near.count))
        return max(tried, key=lambda one: (self._worth(one), one))

    def _finals(self) -> list[Scored]:
        keeping = [one for one in self.simulated if self._excess(one) <= 0]
        finalists = different(sorted(keeping or self.simulated, key=self._place), self.own.finals)
        tasks = [Final(one.ranges, self.seed + FINAL, one.spread) for one in finalists]
        found = [one for part in self.crew.perform(tasks, self.watch.stop.is_set) for one in part]
        if not found:
            # Stopped: what the search saw has to do.
            return finalists
        return sorted(found, key=lambda one: (-one.score, one.ranges, one.spread))

    def _place(self, one: Scored) -> tuple[float, Ranges, Spread]:
        return -self._rank(one), one.ranges, one.spread
