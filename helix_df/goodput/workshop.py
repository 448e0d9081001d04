"""Tasks of a search for goodput, each a pure function of its description: explore, climb, simulate.

Owns how each is carried out. Where a task runs changes nothing. Doesn't choose tasks (``search``).
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from helix_df.goodput.brief import (
    FINAL_ONLINE_S,
    HELD_OUT,
    SEARCH_ONLINE_S,
    SEARCHED,
    WARM_UP_S,
    WHOLE_S,
    Brief,
    Part,
)
from helix_df.goodput.race import APART_S, Pace, Run, race
from helix_df.goodput.routes import route
from helix_df.goodput.shop import Shop, open_shop
from helix_df.goodput.surrogate import Estimate, estimate
from helix_df.graph.capacities import Ints
from helix_df.graph.even_flow import Spread, spread_flow
from helix_df.graph.judge import Judge
from helix_df.graph.problem import NodeProfile, Problem
from helix_df.graph.stage_timing import TimingChoice, node_timing
from helix_df.profiles.timing import LayerTiming
from helix_df.simulator.setup import Setup, assemble_setup
from helix_df.simulator.stepwise import Course, Stepwise
from helix_df.solvers.neighbours import Neighbours
from helix_df.solvers.objective import Objective
from helix_df.spec.job import Limits

Ranges = tuple[tuple[int, int], ...]
"""A placement: (start, count) by node."""

SHORTEST_S = 120.0
"""Of simulated windows: below, the first prompts weigh too much."""

KEPT = 4
"""Placements that an exploration hands over from each of its chains at most."""

CHAIN = 3000
"""Steps of one annealing chain."""

HEAT = 0.05
"""Its first temperature, as a share of the best value."""

SECOND = 500
"""What is added to the seed for a second look."""

DIFFERENT = 4
"""Starts and counts in which two placements must differ to count as two."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A placement, its generated tokens/s, estimated or simulated, and on arrivals the latencies in seconds.

    ``spread``: which of its maximum flows; ``pace``: of the first simulation, for others to be compared with.
    """

    score: float
    ranges: Ranges
    ttft_p95_s: float | None = None
    itl_p95_s: float | None = None
    pace: Pace = ()
    spread: Spread = "any"


def excess(one: Scored, limits: Limits) -> float:
    """By which share the worst limit on latency is missed; 0 when all are kept or unknown.

    A latency that isn't a number is that of requests which never came to a token: it misses any limit.
    """
    pairs = ((one.ttft_p95_s, limits.ttft_p95), (one.itl_p95_s, limits.itl_p95))
    missed = [
        math.inf if math.isnan(found) else found / limit - 1
        for found, limit in pairs
        if found is not None and limit is not None
    ]
    return max(0.0, *missed) if missed else 0.0


@dataclass(frozen=True, slots=True)
class Bar:
    """What simulations of the search are for ``seconds`` of, and held against.

    ``score``: tokens/s from which a second look is taken, and latency matters; ``pace``: whoever falls behind is given
    up.
    """

    seconds: float
    score: float = 0.0
    pace: Pace = ()


@dataclass(frozen=True, slots=True)
class Explore:
    """Anneal on the estimate, from each of ``starts`` in turn, for ``steps`` placements."""

    seed: int
    steps: int
    starts: tuple[Ranges, ...]


@dataclass(frozen=True, slots=True)
class Audition:
    """Simulate a placement on the part of the trace that the search may see, and on arrivals if latency matters.

    What clears the bar is simulated on a second draw of requests, and the mean counts.
    """

    ranges: Ranges
    bar: Bar
    spread: Spread = "any"


@dataclass(frozen=True, slots=True)
class Final:
    """Judge a placement over the whole window on requests that the search hasn't seen."""

    ranges: Ranges
    seed: int
    spread: Spread = "any"


Task = Explore | Audition | Final


class Workshop:
    """Everything that tasks of one job share."""

    def __init__(self, brief: Brief, problem: Problem, seed: int) -> None:
        self.brief, self.problem, self.seed = brief, problem, seed
        self.judge = Judge(problem)
        self.objective = Objective(self.judge)
        course = brief.offline(seed, SEARCHED, WHOLE_S)
        self.shop: Shop = open_shop(problem, self.timing_of, brief.workload, course.options)

    def timing_of(self, node: NodeProfile, layers: int) -> LayerTiming:
        """Seconds a layer takes on a node that holds so many."""
        brief = self.brief
        kv_tokens = node.kv_tokens[layers - 1]
        timing: TimingChoice = "measured" if brief.own.timing == "measured" else "planned"
        return node_timing(brief.job, brief.geometry, brief.requests, node.name, layers, kv_tokens, timing)

    def perform(self, task: Task, stop: Callable[[], bool]) -> list[Scored]:
        """What a task finds; less when stopped."""
        if isinstance(task, Explore):
            return self._explore(task, stop)
        if isinstance(task, Final):
            return self._final(task, stop)
        return [self._audition(task, stop)]

    def estimate(self, start: Ints, count: Ints) -> Estimate | None:
        """What the closed formulas say; ``None`` for what carries nothing or breaks a limit."""
        if not self.objective.admits(start, count):
            return None
        routed = route(self.judge, start, count)
        return estimate(self.shop, routed) if routed is not None else None

    def value(self, start: Ints, count: Ints) -> float:
        """Generated tokens/s by the estimate."""
        found = self.estimate(start, count)
        return found.decode_tokens_per_s if found is not None else 0.0

    def setup(self, ranges: Ranges, spread: Spread = "any") -> Setup:
        """A placement as the simulator wants it, with the flow that its plan will have."""
        placement = self.judge.placement(*arrays(ranges))
        flow = spread_flow(self.problem, placement, spread)
        stages = tuple(self.shop.stage(i, start, count) for i, (start, count) in enumerate(ranges) if count)
        return assemble_setup(self.brief.job.name, self.problem, stages, flow.edges, flow.value)

    def window_s(self, ranges: Ranges, visits: int, longest_s: float, rate: float | None = None) -> float:
        """Simulated seconds such that about ``visits`` token visits happen, saturated or at ``rate`` requests/s."""
        routed = route(self.judge, *arrays(ranges))
        if routed is None:
            return SHORTEST_S
        tokens_per_s = estimate(self.shop, routed).decode_tokens_per_s
        if rate is not None:
            tokens_per_s = min(tokens_per_s, rate * self.shop.workload.output_tokens)
        visits_per_s = tokens_per_s * float(routed.share.sum())
        return min(max(visits / max(visits_per_s, 1e-9) - WARM_UP_S, SHORTEST_S), longest_s)

    def audition(
        self,
        ranges: Ranges,
        stop: Callable[[], bool],
        seed: int,
        seconds: float,
        rival: Pace = (),
        spread: Spread = "any",
    ) -> Run:
        """A simulation of the search; nothing when stopped, far behind the rival, or when nothing flows."""
        if self.value(*arrays(ranges)) <= 0:
            return Run(0.0, ())
        return self._race(self.setup(ranges, spread), self.brief.offline(seed, SEARCHED, seconds), rival, stop)

    def _race(self, setup: Setup, course: Course, rival: Pace, stop: Callable[[], bool]) -> Run:
        return race(Stepwise(setup, course), course.options.warmup_s, course.options.seconds, rival, stop)

    def _audition(self, task: Audition, stop: Callable[[], bool]) -> Scored:
        """A placement simulated; what clears the bar is simulated on other requests too, and the mean counts."""
        bar, ranges, spread = task.bar, task.ranges, task.spread
        run = self.audition(ranges, stop, self.seed, bar.seconds, bar.pace, spread)
        score = run.tokens_per_s
        if score > bar.score:
            again = self.audition(ranges, stop, self.seed + SECOND, bar.seconds, spread=spread)
            score = (score + again.tokens_per_s) / 2
        if not self.brief.judges_latency or score <= bar.score:
            return Scored(score, ranges, pace=run.pace, spread=spread)
        latencies = self._latencies(task, self.seed, SEARCHED, self.brief.own.visits, SEARCH_ONLINE_S, stop)
        return Scored(score, ranges, *latencies, pace=run.pace, spread=spread)

    def _final(self, task: Final, stop: Callable[[], bool]) -> list[Scored]:
        visits = self.brief.own.final_visits
        seconds = self.window_s(task.ranges, visits, WHOLE_S)
        courses = [self.brief.offline(seed, HELD_OUT, seconds) for seed in (task.seed, task.seed + SECOND)]
        setup = self.setup(task.ranges, task.spread)
        score = sum(self._race(setup, course, (), stop).tokens_per_s for course in courses) / len(courses)
        if not self.brief.judges_latency:
            return [Scored(score, task.ranges, spread=task.spread)]
        latencies = self._latencies(task, task.seed, HELD_OUT, visits, FINAL_ONLINE_S, stop)
        return [Scored(score, task.ranges, *latencies, spread=task.spread)]

    def _latencies(
        self, task: Audition | Final, seed: int, part: Part, visits: int, longest_s: float, stop: Callable[[], bool]
    ) -> tuple[float, float]:
        """p95 of TTFT and ITL in seconds on arrivals; NaN where no token came."""
        seconds = self.window_s(task.ranges, visits, longest_s, self.brief.job.workload.rate)
        run = Stepwise(self.setup(task.ranges, task.spread), self.brief.online(seed, part, seconds))
        until_s = 0.0
        while run.advance(until_s) and not stop():
            until_s += APART_S
        return run.percentile("ttft", 95), run.percentile("itl", 95)

    def _explore(self, task: Explore, stop: Callable[[], bool]) -> list[Scored]:
        chance = random.Random(task.seed)
        found: list[Scored] = []
        left, turn = task.steps, 0
        while left > 0 and not stop():
            start, count = arrays(task.starts[turn % len(task.starts)])
            seen: dict[Ranges, float] = {}
            self._chain(Neighbours(self.objective, start, count, chance), min(left, CHAIN), seen, stop)
            # Some of every chain: the estimate isn't good enough to say which start is best.
            best = heapq.nlargest(50 * KEPT, seen.items(), key=lambda item: (item[1], item[0]))
            found += different((Scored(value, ranges) for ranges, value in best), KEPT)
            left, turn = left - CHAIN, turn + 1
        return found

    def _chain(self, near: Neighbours, steps: int, seen: dict[Ranges, float], stop: Callable[[], bool]) -> None:
        """One annealing chain; everything it accepts is remembered."""
        if not near.usable:
            return
        value = best = self.value(near.start, near.count)
        for step in range(steps):
            if step % 16 == 0 and stop():
                return
            kept = near.start.copy(), near.count.copy()
            change(near)
            changed = self.value(near.start, near.count)
            heat = HEAT * best * (1 - step / steps) ** 2 + 1e-9
            if changed > 0 and (changed >= value or near.chance.random() < math.exp((changed - value) / heat)):
                value, best = changed, max(best, changed)
                seen[ranges_of(near.start, near.count)] = changed
            else:
                near.start, near.count = kept


def change(near: Neighbours) -> None:
    """A small change: mostly a move of a node or two, now and then another order of stretches."""
    kind = near.chance.random()
    if kind < 0.15:
        near.reorder()
    elif kind < 0.35:
        near.shift()
    else:
        near.move()


def arrays(ranges: Ranges) -> tuple[Ints, Ints]:
    """Start and count of a placement."""
    pairs = np.array(ranges, dtype=np.int64).reshape(-1, 2)
    return pairs[:, 0].copy(), pairs[:, 1].copy()


def ranges_of(start: Ints, count: Ints) -> Ranges:
    """The placement of ``arrays``; what a node that holds nothing would start at is 0."""
    return tuple((s, k) if k else (0, 0) for s, k in zip(start.tolist(), count.tolist(), strict=True))


def different(scored: Iterable[Scored], most: int) -> list[Scored]:
    """The first ``most`` that differ from each other in more than a detail."""
    chosen: list[Scored] = []
    for one in scored:
        if all(_distance(one.ranges, other.ranges) >= DIFFERENT for other in chosen):
            chosen.append(one)
            if len(chosen) == most:
                break
    return chosen


def _distance(one: Ranges, other: Ranges) -> int:
    return sum((a != c) + (b != d) for (a, b), (c, d) in zip(one, other, strict=True))
