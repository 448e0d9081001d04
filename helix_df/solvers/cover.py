"""``cover``: ranges that cover the line of layers evenly, then moved while the exact max flow gains.

Owns the order of restarts, what is kept and when to stop. Doesn't know how a restart is carried out (``restarts``),
where it runs (``parallel_restarts``) or how sites are found (``sites``).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise, product

import numpy as np

from helix_df.graph.bounds import best_bound
from helix_df.graph.capacities import Ints
from helix_df.graph.judge import Judge
from helix_df.graph.problem import Placement, Problem
from helix_df.graph.sites import Sites, find_sites, orders
from helix_df.solvers.api import Ending, SolveOptions, SolveResult, Termination, Watch
from helix_df.solvers.baselines import Candidate, best_baseline
from helix_df.solvers.interval_cover import SitePath
from helix_df.solvers.objective import Objective
from helix_df.solvers.options import read_extra, refuse_backend
from helix_df.solvers.parallel_restarts import SIDE_BY_SIDE, open_restarts
from helix_df.solvers.rename import renamed
from helix_df.solvers.restarts import Restart, WeighedPlacement, nothing, run_restart, weigh
from helix_df.solvers.stage_chains import StageChainSearch
from helix_df.solvers.stages import StagePacking
from helix_df.solvers.stopping import reason_to_stop
from helix_df.solvers.wide_stages import WideStageSearch

FEW_NODES = 12
"""Nodes up to which moves from many random starts do better than covering, because links decide as much as layers."""

MANY_NODES = 100
"""Nodes from which stages may be so wide that whole nodes matter little."""

MOST_COVERED = 3000
"""Nodes up to which the line is covered node by node; with more, one restart takes minutes and gains nothing."""

QUICK = 16
"""The very first restart takes this share of the iterations."""

MOST_ORDERS = 6
"""Orders of up to three sites that are tried."""

MANY_SITES_ORDERS = 2
"""Orders of more sites than that: which order matters less than time spent on one."""


@dataclass(frozen=True, slots=True)
class CoverOptions:
    """``solver.options`` of cover.

    ``restarts``: attempts at covering the line; ``iterations``: changes tried in the first of them; ``polish``: moves
    judged by max flow after a restart that gains; ``enumerate``: placements up to which all are tried instead, about a
    second for as many as by default.
    """

    restarts: int = 24
    iterations: int = 12000
    polish: int = 6000
    enumerate: int = 30_000


class CoverSolver:
    """Cover every layer with as many tokens/s as possible, as a packing of ranges on a line.

    With partial inference and links that don't bind, the flow is the minimum over layers of the capacity that covers
    the layer, so placing layers is covering a line; ``interval_cover`` does that, site by site where links are slow.
    ``Polish`` then judges small moves by the exact flow. Tiny problems are solved by trying every placement. Same
    problem, options and seed give the same placement, unless the time limit or an interruption cuts the search off.
    """

    name = "cover"
    own_options = CoverOptions
    weighs_moves = True

    def solve(self, problem: Problem, options: SolveOptions, watch: Watch) -> SolveResult:
        refuse_backend(self.name, options)
        own = read_extra(self.name, options.extra, CoverOptions)
        deadline_s = watch.elapsed_s() + options.time_limit_s
        start = best_baseline(problem, options, watch)
        search = CoverSearch(problem, options, own, watch, deadline_s, start)
        ending = search.run()
        return SolveResult(search.best, Termination.of(ending, search.bound, search.detail))


class CoverSearch:
    """One search: the best placement so far and what ends it."""

    def __init__(
        self,
        problem: Problem,
        options: SolveOptions,
        own: CoverOptions,
        watch: Watch,
        deadline_s: float,
        start: Candidate | None,
    ) -> None:
        self.options, self.own, self.watch, self.deadline_s = options, own, watch, deadline_s
        self.judge = Judge(problem)
        self.objective = Objective(self.judge, options.near)
        self.chance = random.Random(options.seed)
        self.bound = best_bound(problem).bound
        self.sites = find_sites(problem)
        self.incumbent = nothing(self.objective)
        if options.near is not None:
            self._take(*self.judge.arrays(options.near.placement), "the running plan")
        if start is not None:
            self._take(*self.objective.keep_nodes(*self.judge.arrays(start.placement)), start.source)

    @property
    def best(self) -> Placement | None:
        """The best placement so far."""
        return self.judge.placement(self.incumbent.start, self.incumbent.count) if self.incumbent.source else None

    @property
    def flow(self) -> float:
        """Its flow, in tokens/s."""
        return self.incumbent.flow

    @property
    def detail(self) -> str:
        """Who found it, in words."""
        return f"best by {self.incumbent.source}" if self.incumbent.source else "no placement found"

    def run(self) -> Ending:
        """Search until proven, told to stop, out of time or out of restarts."""
        if self.bound <= 0:
            return "infeasible"
        if self._enough() is None and self._placements() <= self.own.enumerate:
            self._try_all()
            return "interrupt" if self.watch.stop.is_set() else "optimal" if self.best else "infeasible"
        if self._enough() is None:
            self._pack_stages() if self.judge.problem.limits.max_hops is None else self._chain_stages()
        if self._enough() is None and not self._late() and len(self.judge.most) >= MANY_NODES:
            self._widen_stages()
        if self._enough() is None and not self._late() and not (self.flow and len(self.judge.most) > MOST_COVERED):
            self._rounds()
        return self._enough() or ("time" if self._late() else "finished")

    def _enough(self) -> Ending | None:
        return reason_to_stop(self.incumbent.worth, self.bound, self.options, self.watch)

    def _late(self) -> bool:
        return self.watch.elapsed_s() >= self.deadline_s

    def _stop(self) -> bool:
        return self.watch.stop.is_set() or self._late()

    def _take(self, start: Ints, count: Ints, source: str) -> bool:
        """Keep a placement if it is worth more than the best so far."""
        found = weigh(self.objective, start, count, source)
        if found is None or found.worth <= self.incumbent.worth:
            return False
        self.incumbent = found
        self.watch.report("cover", found.flow, self.bound)
        return True

    def _pack_stages(self) -> None:
        """Stages of few nodes, packed exactly, for every order of the sites."""
        packing = StagePacking(self.judge, self.sites)
        for order in orders(self.sites, MOST_ORDERS) if packing.small else ():
            placed = packing.best(order, self.flow, self.bound * (1 + 1e-6))
            if placed is not None and self._take(*self.objective.keep_nodes(*placed), "packing stages"):
                moves = Restart("moves", self.chance.getrandbits(32), 0, self.own.polish)
                self._keep_best([run_restart(self.objective, moves, self.incumbent, self.bound, self._stop)])
            if self._enough() is not None or self._late():
                return

    def _chain_stages(self) -> None:
        """Chains of as many stages as a limit on hops allows, by integer programmes."""
        most_stages = self.judge.problem.limits.max_hops
        # Pinned nodes are seldom where a chain would have them.
        if most_stages is None or self.objective.fixed:
            return
        chains = StageChainSearch(self.judge, self.sites, most_stages, self.bound, self._stop)
        for start, count in chains.placements(self.flow, self.chance.getrandbits(32)):
            self._take(*self.objective.keep_nodes(start, count), "chains of stages")
            if self._enough() is not None or self._late():
                return

    def _widen_stages(self) -> None:
        """One chain of wide stages, as large clusters allow."""
        most_stages = self.judge.problem.limits.max_hops or self.judge.num_layers
        wide = WideStageSearch(self.judge, self.sites, most_stages, self.bound, self._stop)
        for start, count in wide.placements(self.flow, self.chance.getrandbits(32)):
            self._take(*self.objective.keep_nodes(start, count), "filling wide stages")
            if self._enough() is not None or self._late():
                return

    def _rounds(self) -> None:
        """Restarts side by side, ``SIDE_BY_SIDE`` in a round, each from the incumbent of the round before.

        So what is found doesn't depend on how fast a process is, nor on how many cores there are.
        """
        with open_restarts(self.objective, self.bound, small=len(self.judge.most) <= FEW_NODES) as runner:
            waiting = self._restarts()
            while restarts := tuple(islice(waiting, SIDE_BY_SIDE)):
                self._keep_best(runner.run(restarts, self.incumbent, self._stop))
                if self._enough() is not None or self._stop():
                    return

    def _keep_best(self, found: Iterable[WeighedPlacement]) -> None:
        for incumbent in found:
            if incumbent.worth > self.incumbent.worth:
                self.incumbent = incumbent
                self.watch.report("cover", incumbent.flow, self.bound)
                if self.options.near is not None:
                    self._take(*renamed(self.objective, incumbent.start, incumbent.count), incumbent.source)

    def _restarts(self) -> Iterator[Restart]:
        if len(self.judge.most) <= FEW_NODES:
            return self._scattered()
        if self.judge.problem.limits.max_hops is not None:
            return self._aligned_stages(self.judge.problem.limits.max_hops)
        return self._interval_covers()

    def _seed(self) -> int:
        return self.chance.getrandbits(32)

    def _scattered(self) -> Iterator[Restart]:
        """Moves from the incumbent and, more often, from anywhere."""
        for number in range(self.own.restarts):
            yield Restart("scatter" if number % 4 else "moves", self._seed(), 0, self.own.polish // 2)

    def _aligned_stages(self, max_hops: int) -> Iterator[Restart]:
        """As many stages as allowed and with fewer, then moves from the best, with more and more work."""
        fewest = -(-self.judge.num_layers // max(1, int(self.judge.most.max())))
        stages = list(range(min(max_hops, self.judge.num_layers), fewest - 1, -1))[:4] or [max_hops]
        for number in range(self.own.restarts):
            turn, place = divmod(number, len(stages))
            iterations = self._sized(self.own.iterations, turn) // (1 if number else QUICK)
            yield Restart("aligned_stages", self._seed(), iterations, self.own.polish, stages=stages[place])

    def _interval_covers(self) -> Iterator[Restart]:
        """Every arrangement once, in an order that chance decides, then again with more and more iterations."""
        arrangements = list(_arrangements(self.judge, self.sites)) or [()]
        first, rest = arrangements[:2], arrangements[2:]
        self.chance.shuffle(rest)
        # Something better soon, for those who stop early.
        yield Restart("interval_cover", self._seed(), max(1, self.own.iterations // QUICK), self.own.polish, first[0])
        for number in range(self.own.restarts):
            turn, place = divmod(number, len(arrangements))
            iterations = self._sized(self.own.iterations, turn)
            yield Restart("interval_cover", self._seed(), iterations, self.own.polish, (*first, *rest)[place])

    def _sized(self, iterations: int, turn: int) -> int:
        return int(iterations * min(max(len(self.judge.most) / 60, 1.0), 4.0) * 2**turn)

    def _placements(self) -> int:
        layers, total = self.judge.num_layers, 1
        for most in self.judge.most.tolist():
            total *= 1 + sum(layers - k + 1 for k in range(1, most + 1))
            if total > self.own.enumerate:
                break
        return total

    def _try_all(self) -> None:
        layers = self.judge.num_layers
        choices = [
            [(0, 0), *((s, k) for k in range(1, most + 1) for s in range(layers - k + 1))]
            for most in self.judge.most.tolist()
        ]
        for ranges in product(*choices):
            start = np.array([s for s, _ in ranges], dtype=np.int64)
            count = np.array([k for _, k in ranges], dtype=np.int64)
            self._take(start, count, "trying every placement")
            if self.watch.stop.is_set():
                return
        if self.objective.near is None:
            self.bound = max(self.flow, 0.0)


def _arrangements(judge: Judge, sites: Sites) -> Iterator[tuple[SitePath, ...]]:
    """One line over all sites in several orders and with several widths of crossings; and a line a site."""
    shapes = (0.0, 1.0, -1.0)
    several = len(sites.members) > 1
    for order in orders(sites, MOST_ORDERS if len(sites.members) <= 3 else MANY_SITES_ORDERS):
        members = tuple(sites.members[g] for g in order)
        rates = tuple(float(sites.rates[a, b]) for a, b in pairwise(order))
        few = len(rates) <= 2
        for skews in product(shapes, repeat=len(rates)) if few else [(0.0,) * len(rates)]:
            for overlap in (0, 1) if several else (0,):
                yield (SitePath(members, rates, tuple(skews), overlap),)
    whole = tuple(site for site in sites.members if int(judge.most[list(site)].sum()) >= judge.num_layers)
    if several and whole:
        yield tuple(SitePath((site,)) for site in whole)
