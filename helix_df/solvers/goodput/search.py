"""The search for the placement that serves most: estimates to find candidates, simulations to choose among them.

Owns the order of work: starts that the flow finds, annealing on the estimate, screening in the simulator, climbing
there, and validation on requests that the search has never seen. Every phase ends when its work is done, counted in
placements and in simulated token visits, never in seconds: a seed gives the same plan on any machine, unless the time
limit cuts the search off. Doesn't know how a placement is judged (``evaluator``).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from helix_df.graph.even_flow import COST_PRESETS, CostPreset
from helix_df.graph.problem import Placement
from helix_df.plan.serving import ServingRules, first_choices, next_to
from helix_df.solvers.api import SolveOptions, Watch
from helix_df.solvers.baselines import baselines, best_baseline
from helix_df.solvers.cover import CoverOptions, CoverSearch
from helix_df.solvers.goodput.config import WHOLE_S
from helix_df.solvers.goodput.evaluator import SHORTEST_S, Evaluator, Threshold
from helix_df.solvers.goodput.exploration import CHAIN, Chain, change, explored
from helix_df.solvers.goodput.placements import Ranges, Scored, arrays, different, excess, ranges_of
from helix_df.solvers.goodput.worker_pool import WorkerPool
from helix_df.solvers.neighbours import Neighbours
from helix_df.solvers.rename import identical, renamed

FIRST: CostPreset = "quick-nodes"
"""The maximum flow that placements are tried with first: mostly the best."""

EXPLORATIONS = 2
"""Explorations, each from all starts in turn."""

BEST_STARTS = 6
"""Starts that are explored from."""

ROUND = 8
"""Placements that are simulated side by side. Fixed, so that a seed gives the same plan on every machine."""

RULES_SHARE, SCREENING_SHARE, ORDERS_SHARE = 0.15, 0.35, 0.45
"""Shares of all simulated visits after which a phase makes room for the next, if it isn't done before."""

BRAKE_SHARE = 0.93
"""Share of the time limit after which the search is cut off; the rest is for the validation."""

ORDERS_ESTIMATED = 24
"""Random orders that are estimated for each that is simulated."""

ELITES = 4
"""Placements that climbing goes on from."""

PROPOSALS = 6
"""Changes that are estimated for each one that is simulated."""

TRUST = 0.1
"""How far chance may lift or lower an estimate when one of the proposals is chosen."""

OTHER_SPREAD, OTHER_RULES = 0.2, 0.25
"""Shares of changes that also take another of the maximum flows, and another step of a serving rule."""

VALIDATION = 1000
"""What is added to the seed for the validation."""

LENIENT, FIRM, PATIENCE = 0.5, 4.0, 200
"""How much a missed limit on latency costs at first, how much more when all work is done, and after how many
simulations it costs one more in any case.

What serves much and misses a limit is nearer to what serves much and keeps it than what keeps it from the start.
"""

UNTRIED = 0.9
"""Worth of a placement whose latency nobody has looked at, as a share of its throughput."""

EFFORT = CoverOptions(restarts=2, iterations=1500, polish=300)
"""Of the searches for starts of different depths."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A placement to be simulated with one of its maximum flows, and rules to serve it by."""

    ranges: Ranges
    spread: CostPreset
    rules: ServingRules


class GoodputSearch:
    """One search, by counted work; the time limit is a brake."""

    def __init__(
        self, evaluator: Evaluator, pool: WorkerPool, watch: Watch, options: SolveOptions, work: float
    ) -> None:
        self.evaluator, self.pool, self.watch, self.options = evaluator, pool, watch, options
        self.own = evaluator.config.own
        self.chance = random.Random(options.seed)
        self.brake_s = watch.elapsed_s() + BRAKE_SHARE * options.time_limit_s
        self.alike = identical(evaluator.objective)
        self.rules, self.free = evaluator.rules, evaluator.config.free_rules
        self.tried: set[Trial] = set()
        self.simulated: list[Scored] = []
        self.seconds = 0.0
        self.work, self.visits = work, 0.0
        self.cut_off = False

    def run(self) -> list[Scored]:
        """Placements judged on held-out requests, the one worth most first; empty when none serves."""
        self._warm_up()
        starts = self._starts()
        if not starts:
            return []
        self._choose_rules(starts)
        self._screen([*(Scored(0.0, start) for start in starts), *self._explore(starts)])
        self._try_orders()
        self._try_spreads()
        self._step_rules(ORDERS_SHARE)
        self._climb()
        return self._validated()

    def _warm_up(self) -> None:
        """Compile the estimate and the simulator, which takes a minute or two once, outside of the time limit."""
        began_s = self.watch.elapsed_s()
        for _, placement in islice(baselines(self.evaluator.problem, SolveOptions(), self.watch), 1):
            self.watch.say("goodput", "compiling the simulator, which takes a minute or two the first time")
            ranges = ranges_of(*self.evaluator.judge.arrays(placement))
            self.evaluator.simulated(ranges, self.watch.stop.is_set, self.options.seed, SHORTEST_S)
        self.brake_s += self.watch.elapsed_s() - began_s

    def _braked(self) -> bool:
        """Whether to stop: asked to, or out of time. Once noticed, it stays so."""
        if self.watch.elapsed_s() >= self.brake_s:
            self.cut_off = True
        return self.cut_off or self.watch.stop.is_set()

    def _done(self, share: float) -> bool:
        return self.visits >= share * self.work or self._braked()

    def _starts(self) -> list[Ranges]:
        """What runs, the rules' placements, and what ``cover`` finds with pipelines of different depths."""
        self.watch.say("goodput", "looking for starts")
        problem, judge, objective = self.evaluator.problem, self.evaluator.judge, self.evaluator.objective
        plain = SolveOptions(time_limit_s=self.options.time_limit_s, seed=self.options.seed)
        near = self.options.near
        placements: list[Placement] = [near.placement] if near is not None else []
        placements += [placement for _, placement in baselines(problem, plain, self.watch)]
        for max_hops in self._depths():
            given = replace(problem, limits=replace(problem.limits, max_hops=max_hops))
            watch = Watch()
            watch.stop = self.watch.stop
            deadline_s = self.brake_s - self.watch.elapsed_s()
            search = CoverSearch(given, plain, EFFORT, watch, deadline_s, best_baseline(given, plain, watch))
            search.run()
            if search.best is not None:
                placements.append(search.best)
            if self._braked():
                break
        starts = [ranges_of(*objective.keep_nodes(*judge.arrays(one))) for one in placements]
        if near is not None:
            starts += [ranges_of(*renamed(objective, *arrays(one))) for one in starts]
        return [start for start in dict.fromkeys(starts) if self.evaluator.value(*arrays(start)) > 0]

    def _depths(self) -> Iterator[int | None]:
        """Limits on hops around the fewest that hold the model, and none."""
        problem = self.evaluator.problem
        yield problem.limits.max_hops
        most = max(int(self.evaluator.judge.most.max()), 1)
        fewest = -(-problem.num_layers // most)
        for factor in (1.25, 1.5, 1.75, 2.0, 2.5):
            hops = round(fewest * factor)
            if problem.limits.max_hops is None or hops < problem.limits.max_hops:
                yield hops

    def _worth(self, ranges: Ranges) -> float:
        worth = self.evaluator.worth(*arrays(ranges))
        return -1.0 if worth is None else worth

    def _cost(self, ranges: Ranges) -> float:
        return self.evaluator.objective.cost(*arrays(ranges))

    def _explore(self, starts: Sequence[Ranges]) -> list[Scored]:
        self.watch.say("goodput", "estimating placements")
        best_first = sorted(starts, key=lambda start: (-self._worth(start), start))[:BEST_STARTS]
        chains = []
        for exploration in range(EXPLORATIONS):
            turns = best_first[exploration:] + best_first[:exploration]
            for turn, done in enumerate(range(0, self.own.explore or 0, CHAIN)):
                steps = min(CHAIN, (self.own.explore or 0) - done)
                chains.append(Chain(self.chance.getrandbits(32), steps, turns[turn % len(turns)]))
        found = self.pool.perform(lambda chain: explored(self.evaluator, chain, self._braked), chains, self._braked)
        kept = [one for part in found if part is not None for one in part]
        return different(sorted(kept, key=lambda one: (-one.score, one.ranges)), self.own.screened)

    def _screen(self, candidates: Sequence[Scored]) -> None:
        ordered = sorted(candidates, key=lambda one: (-max(one.score, self._worth(one.ranges)), one.ranges))
        if not self.seconds:
            self.seconds = self._window_s(ordered[0].ranges)
        for at in range(0, len(ordered), ROUND):
            if self.simulated and self._done(SCREENING_SHARE):
                return
            # The very first simulations are run whatever the time, so that there is something to choose from.
            stop = self._braked if self.simulated else self.watch.stop.is_set
            self._simulate([Trial(one.ranges, FIRST, self.rules) for one in ordered[at : at + ROUND]], stop)

    def _window_s(self, ranges: Ranges) -> float:
        """All simulations of the search are as long as those of the candidate that promises most may be."""
        return self.evaluator.window_s(ranges, self.own.visits, WHOLE_S)

    def _choose_rules(self, starts: Sequence[Ranges]) -> None:
        """Rules under which the start that promises most serves most: estimates and candidates go on with them."""
        if not self.free:
            return
        self.watch.say("goodput", "choosing serving rules")
        start = max(starts, key=lambda one: (self._worth(one), one))
        self.seconds = self._window_s(start)
        self._try_rules([Trial(start, FIRST, rules) for rules in first_choices(self.rules, self.free)], RULES_SHARE)
        self._step_rules(RULES_SHARE)

    def _step_rules(self, share: float) -> None:
        """Change a rule of the best placement by a step for as long as that serves more."""
        while self.simulated and not self._done(share):
            best = self._best(1)[0]
            self._try_rules([Trial(best.ranges, best.spread, rules) for rules in self._next_to(best)], share)
            if self._best(1)[0] == best:
                break
        if self.simulated and (rules := self._best(1)[0].rules) is not None:
            self.rules, self.evaluator = rules, self.evaluator.under(rules)

    def _next_to(self, one: Scored) -> list[ServingRules]:
        return list(next_to(one.rules, self.free)) if one.rules is not None else []

    def _try_rules(self, trials: Sequence[Trial], share: float) -> None:
        for at in range(0, len(trials), ROUND):
            if self.simulated and self._done(share):
                return
            self._simulate(trials[at : at + ROUND], None if self.simulated else self.watch.stop.is_set)

    def _threshold(self, elites: Sequence[Scored], ranges: Ranges) -> Threshold:
        """What a placement must be better than to be among the elite set."""
        if len(elites) < ELITES:
            return Threshold(self.seconds)
        # What costs more to move to must serve more; what keeps all limits may serve less and rank as high.
        score = self._rank(elites[-1]) + self._cost(ranges)
        share = score / elites[-1].score
        return Threshold(self.seconds, score, tuple((time_s, share * tokens) for time_s, tokens in elites[-1].curve))

    def _simulate(self, candidates: Sequence[Trial], stop: Callable[[], bool] | None = None) -> None:
        """A round: what nobody has tried of the candidates, side by side, all held against what was best before."""
        asked = stop or self._braked
        new = []
        for one in candidates:
            tried = self._sorted(one)
            if tried not in self.tried:
                self.tried.add(tried)
                new.append(one)
        elites = self._best(ELITES)
        tasks = [(self.evaluator.under(one.rules), one, self._threshold(elites, one.ranges)) for one in new]
        found = self.pool.perform(
            lambda task: task[0].screened(task[1].ranges, task[2], task[1].spread, asked), tasks, asked
        )
        for scored in found:
            if scored is not None:
                self._take(scored)

    def _take(self, scored: Scored) -> None:
        self.visits += scored.visits / 1e6
        if scored.score <= 0:
            return
        best = self._best(1)
        if not best or self._rank(scored) > self._rank(best[0]):
            self.watch.report("goodput", scored.score, None)
        self.simulated.append(scored)

    def _rank(self, one: Scored) -> float:
        """Generated tokens/s, less what missed limits on latency, or untried ones, take, and what moving costs."""
        if self.evaluator.config.judges_latency and one.ttft_p95_s is None:
            return UNTRIED * one.score - self._cost(one.ranges)
        strict = LENIENT + max(FIRM * self.visits / self.work, len(self.tried) / PATIENCE)
        return float(one.score / (1 + self._excess(one)) ** strict) - self._cost(one.ranges)

    def _excess(self, one: Scored) -> float:
        return excess(one, self.evaluator.config.job.limits)

    def _best(self, most: int) -> list[Scored]:
        return different(sorted(self.simulated, key=self._place), most)

    def _place(self, one: Scored) -> tuple[float, Ranges, CostPreset, ServingRules]:
        return -self._rank(one), one.ranges, one.spread, one.rules or self.rules

    def _sorted(self, one: Trial) -> Trial:
        """The same for all placements that differ in which of identical nodes holds what, where that costs nothing."""
        if self.evaluator.objective.near is not None:
            return one
        placed = list(one.ranges)
        for group in self.alike:
            for node, place in zip(group, sorted(one.ranges[node] for node in group), strict=True):
                placed[node] = place
        return replace(one, ranges=tuple(placed))

    def _climb(self) -> None:
        self.watch.say("goodput", "changing the best placements")
        for _ in range(0, self.own.climbs, ROUND):
            if self._done(1.0) or not self.simulated:
                return
            elites = self._best(ELITES)
            changed = (self._changed(elites) for _ in range(ROUND))
            self._simulate([one for one in changed if one is not None])

    def _changed(self, elites: Sequence[Scored]) -> Trial | None:
        """A change of one of the elites that nobody has tried: the one of a few that promises most."""
        # The best is changed as often as all others together.
        elite = elites[0] if self.chance.random() < 0.5 else self.chance.choice(elites)
        proposals: list[tuple[float, Ranges, CostPreset, ServingRules]] = []
        for _ in range(PROPOSALS):
            near = Neighbours(self.evaluator.objective, *arrays(elite.ranges), self.chance)
            for _ in range(self.chance.choice((1, 1, 1, 2)) if near.usable else 0):
                change(near)
            spread = self.chance.choice(COST_PRESETS) if self.chance.random() < OTHER_SPREAD else elite.spread
            one = Trial(ranges_of(near.start, near.count), spread, self._other_rules(elite))
            if self._sorted(one) not in self.tried:
                trusted = self._worth(one.ranges) * self.chance.uniform(1 - TRUST, 1 + TRUST)
                proposals.append((trusted, one.ranges, one.spread, one.rules))
        if not proposals:
            return None
        _, ranges, spread, rules = max(proposals)
        return Trial(ranges, spread, rules)

    def _other_rules(self, elite: Scored) -> ServingRules:
        near = self._next_to(elite) if self.free and self.chance.random() < OTHER_RULES else []
        return self.chance.choice(near) if near else elite.rules or self.rules

    def _try_spreads(self) -> None:
        """The other maximum flows of the best placements."""
        others = [
            Trial(one.ranges, spread, one.rules or self.rules) for one in self._best(ELITES) for spread in COST_PRESETS
        ]
        for at in range(0, len(others), ROUND):
            if self._done(ORDERS_SHARE):
                return
            self._simulate(others[at : at + ROUND])

    def _try_orders(self) -> None:
        """Other orders of the best placements' stages, which the estimate can't tell apart but simulations do."""
        for _ in range(0, self.own.orders, ROUND):
            if self._done(ORDERS_SHARE) or not self.simulated:
                return
            elites = self._best(ELITES)
            self._simulate([self._permuted(self.chance.choice(elites)) for _ in range(ROUND)])

    def _permuted(self, one: Scored) -> Trial:
        """Of a few other orders the one with the best estimate, which sees links between sites."""
        tried = []
        for _ in range(ORDERS_ESTIMATED):
            near = Neighbours(self.evaluator.objective, *arrays(one.ranges), self.chance)
            near.permute()
            tried.append(ranges_of(near.start, near.count))
        return Trial(max(tried, key=lambda one: (self._worth(one), one)), FIRST, one.rules or self.rules)

    def _validated(self) -> list[Scored]:
        """The best that keep the limits, on requests that the search hasn't seen; when stopped, as they were seen."""
        self.watch.say("goodput", "validating on other requests")
        keeping = [one for one in self.simulated if self._excess(one) <= 0]
        chosen = different(sorted(keeping or self.simulated, key=self._place), self.own.validated)
        stop = self.watch.stop.is_set
        seed = self.options.seed + VALIDATION
        found = self.pool.perform(
            lambda one: one[0].validated(one[1].ranges, seed, one[1].spread, stop),
            [(self.evaluator.under(one.rules or self.rules), one) for one in chosen],
            stop,
        )
        judged = [one for one in found if one is not None]
        if stop():
            return chosen
        return sorted(judged, key=lambda one: (self._cost(one.ranges) - one.score, one.ranges, one.spread))
