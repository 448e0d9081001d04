"""What a placement of one job is worth: by the estimate at once, by simulation in a fraction of a second.

Owns how each is carried out, as pure functions of their arguments that may run on any thread. Doesn't choose placements
(``search``).
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace

from helix_df.graph.capacities import Ints
from helix_df.graph.even_flow import CostPreset, spread_flow
from helix_df.graph.judge import Judge
from helix_df.graph.problem import NodeProfile, Problem
from helix_df.graph.stage_timing import node_timing
from helix_df.plan.moves import Near
from helix_df.plan.serving import ServingRules
from helix_df.profiles.kv_windows import KvShape
from helix_df.profiles.timing import LayerTiming
from helix_df.simulator.setup import Setup, assemble_setup
from helix_df.simulator.simulation import Course, Simulation
from helix_df.solvers.goodput.config import (
    HELD_OUT,
    SEARCH_ONLINE_S,
    SEARCHED,
    VALIDATION_ONLINE_S,
    WARM_UP_S,
    WHOLE_S,
    Part,
    SearchConfig,
)
from helix_df.solvers.goodput.flow_split import split_flow
from helix_df.solvers.goodput.placements import Ranges, Scored, arrays
from helix_df.solvers.goodput.racing import APART_S, RaceResult, TokenCurve, race
from helix_df.solvers.goodput.stage_costs import StageCosts, tabulate_costs
from helix_df.solvers.goodput.surrogate import Estimate, estimate
from helix_df.solvers.objective import Objective

WINDOWS_S = (120.0, 150.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 780.0, 1080.0)
"""Windows that are simulated: few, since each needs requests of its own."""

SHORTEST_S = WINDOWS_S[0]
"""Below, the first prompts weigh too much."""

SECOND = 500
"""What is added to the seed for a second look."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """What simulations of the search are for ``seconds`` of, and held against.

    ``score``: tokens/s from which a second look is taken, and latency matters; ``baseline``: whoever falls behind it is
    given up.
    """

    seconds: float
    score: float = 0.0
    baseline: TokenCurve = ()


@dataclass(frozen=True, slots=True)
class Latencies:
    """p95 of TTFT and ITL in seconds, NaN where no token came, and the token visits that were simulated."""

    ttft_p95_s: float
    itl_p95_s: float
    visits: float


class Evaluator:
    """Everything that judgements of one job's placements share."""

    def __init__(self, config: SearchConfig, problem: Problem, seed: int, near: Near | None = None) -> None:
        self.config, self.problem, self.seed = config, problem, seed
        self.judge = Judge(problem)
        self.objective = Objective(self.judge, near)
        self.rules = config.rules
        self.costs = self._costs()
        self._by_rules = {self.rules: self}

    def under(self, rules: ServingRules) -> Evaluator:
        """The same under other serving rules."""
        if rules not in self._by_rules:
            other = copy(self)
            other.rules = rules
            other.costs = other._costs()
            self._by_rules[rules] = other
        return self._by_rules[rules]

    def _costs(self) -> StageCosts:
        course = self.config.offline(self.rules, self.seed, SEARCHED, WHOLE_S)
        return tabulate_costs(self.problem, self.timing_of, self.config.workload, course.options)

    def timing_of(self, node: NodeProfile, layers: int, shape: KvShape) -> LayerTiming:
        """Seconds a layer takes on a node that holds so many, of this shape."""
        config = self.config
        kv_tokens = node.kv_tokens[layers - 1]
        geometry, requests = config.origin.geometry, config.origin.requests
        choice = config.own.node_timing
        return node_timing(config.job, geometry, requests, node.name, layers, kv_tokens, choice, shape)

    def estimate(self, start: Ints, count: Ints) -> Estimate | None:
        """What the closed formulas say; ``None`` for what carries nothing or breaks a limit."""
        if not self.objective.admits(start, count):
            return None
        split = split_flow(self.judge, start, count)
        return estimate(self.costs, split) if split is not None else None

    def value(self, start: Ints, count: Ints) -> float:
        """Generated tokens/s by the estimate; 0 for what carries nothing or breaks a limit."""
        found = self.estimate(start, count)
        return found.decode_tokens_per_s if found is not None else 0.0

    def worth(self, start: Ints, count: Ints) -> float | None:
        """``value`` less what moving there costs; ``None`` for what carries nothing or breaks a limit."""
        value = self.value(start, count)
        return value - self.objective.cost(start, count) if value > 0 else None

    def setup(self, ranges: Ranges, spread: CostPreset = "any") -> Setup:
        """A placement as the simulator wants it, with the flow that its plan will have."""
        placement = self.judge.placement(*arrays(ranges))
        flow = spread_flow(self.problem, placement, spread)
        stages = tuple(self.costs.stage(i, start, count) for i, (start, count) in enumerate(ranges) if count)
        return assemble_setup(self.config.job.name, self.problem, stages, flow.edges, flow.value)

    def window_s(self, ranges: Ranges, visits: int | None, longest_s: float, rate: float | None = None) -> float:
        """Simulated seconds with about ``visits`` token visits, if limited, saturated or at ``rate`` requests/s."""
        if visits is None:
            return longest_s
        split = split_flow(self.judge, *arrays(ranges))
        if split is None:
            return SHORTEST_S
        tokens_per_s = estimate(self.costs, split).decode_tokens_per_s
        if rate is not None:
            tokens_per_s = min(tokens_per_s, rate * self.costs.workload.output_tokens)
        visits_per_s = tokens_per_s * float(split.share.sum())
        seconds = min(visits / max(visits_per_s, 1e-9) - WARM_UP_S, longest_s)
        return max((window for window in WINDOWS_S if window <= seconds), default=SHORTEST_S)

    def hops(self, ranges: Ranges) -> float:
        """Nodes that a request passes on average: visits for each token."""
        split = split_flow(self.judge, *arrays(ranges))
        return float(split.share.sum()) if split is not None else 0.0

    def simulated(
        self,
        ranges: Ranges,
        stop: Callable[[], bool],
        seed: int,
        seconds: float,
        baseline: TokenCurve = (),
        spread: CostPreset = "any",
    ) -> RaceResult:
        """A simulation of the search; nothing when stopped, far behind the baseline, or when nothing flows."""
        if self.value(*arrays(ranges)) <= 0:
            return RaceResult(0.0, ())
        return self._race(self.setup(ranges, spread), self._offline(seed, SEARCHED, seconds), baseline, stop)

    def screened(self, ranges: Ranges, threshold: Threshold, spread: CostPreset, stop: Callable[[], bool]) -> Scored:
        """A placement simulated on what the search may see, and on arrivals if latency matters.

        What clears the threshold is simulated on a second draw of requests, and the mean counts.
        """
        if self.value(*arrays(ranges)) <= 0:
            return self._scored(0.0, ranges, spread)
        setup, hops = self.setup(ranges, spread), self.hops(ranges)
        course = self._offline(self.seed, SEARCHED, threshold.seconds)
        run = self._race(setup, course, threshold.baseline, stop)
        score, tokens = run.tokens_per_s, run.tokens
        if score > threshold.score:
            again = self._race(setup, self._offline(self.seed + SECOND, SEARCHED, threshold.seconds), (), stop)
            score, tokens = (score + again.tokens_per_s) / 2, tokens + again.tokens
        visits = tokens * hops
        if not self.config.judges_latency or score <= threshold.score:
            return replace(self._scored(score, ranges, spread, visits), curve=run.curve)
        seconds = self.window_s(ranges, self.config.own.visits, SEARCH_ONLINE_S, self.config.job.workload.rate)
        found = self._latencies(setup, hops, self._online(self.seed, SEARCHED, seconds), stop)
        judged = self._scored(score, ranges, spread, visits + found.visits)
        return replace(judged, ttft_p95_s=found.ttft_p95_s, itl_p95_s=found.itl_p95_s, curve=run.curve)

    def validated(self, ranges: Ranges, seed: int, spread: CostPreset, stop: Callable[[], bool]) -> Scored:
        """A placement judged over the whole window on requests that the search hasn't seen."""
        most = self.config.own.validation_visits
        seconds = self.window_s(ranges, most, WHOLE_S)
        courses = [self._offline(draw, HELD_OUT, seconds) for draw in (seed, seed + SECOND)]
        setup, hops = self.setup(ranges, spread), self.hops(ranges)
        runs = [self._race(setup, course, (), stop) for course in courses]
        score, visits = sum(run.tokens_per_s for run in runs) / len(runs), sum(run.tokens for run in runs) * hops
        if not self.config.judges_latency:
            return self._scored(score, ranges, spread, visits)
        found = self.latencies(ranges, seed, spread, stop)
        judged = self._scored(score, ranges, spread, visits + found.visits)
        return replace(judged, ttft_p95_s=found.ttft_p95_s, itl_p95_s=found.itl_p95_s)

    def latencies(self, ranges: Ranges, seed: int, spread: CostPreset, stop: Callable[[], bool]) -> Latencies:
        """Of a placement at the job's rate, on requests that the search hasn't seen."""
        rate = self.config.job.workload.rate
        seconds = self.window_s(ranges, self.config.own.validation_visits, VALIDATION_ONLINE_S, rate)
        course = self._online(seed, HELD_OUT, seconds)
        return self._latencies(self.setup(ranges, spread), self.hops(ranges), course, stop)

    def _offline(self, seed: int, part: Part, seconds: float) -> Course:
        return self.config.offline(self.rules, seed, part, seconds)

    def _online(self, seed: int, part: Part, seconds: float) -> Course:
        return self.config.online(self.rules, seed, part, seconds)

    def _scored(self, score: float, ranges: Ranges, spread: CostPreset, visits: float = 0.0) -> Scored:
        return Scored(score, ranges, spread=spread, visits=visits, rules=self.rules)

    def _race(self, setup: Setup, course: Course, baseline: TokenCurve, stop: Callable[[], bool]) -> RaceResult:
        return race(
            Simulation(setup, course, form="compiled"), course.options.warmup_s, course.options.seconds, baseline, stop
        )

    def _latencies(self, setup: Setup, hops: float, course: Course, stop: Callable[[], bool]) -> Latencies:
        run = Simulation(setup, course, form="compiled")
        until_s = 0.0
        while run.advance(until_s) and not stop():
            until_s += APART_S
        return Latencies(run.percentile("ttft", 95), run.percentile("itl", 95), run.decode_tokens * hops)
