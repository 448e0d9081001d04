"""``cover``: ranges that cover the line of layers evenly, then moved while the exact max flow gains.

Owns the order of attempts, what is kept and when to stop. Doesn't know how a line is covered (``line``), how sites are
found (``sites``) or how single moves are judged (``polish``).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np

from helix_df.graph.bounds import best_bound
from helix_df.graph.capacities import Ints
from helix_df.graph.judge import Judge
from helix_df.graph.problem import Placement, Problem
from helix_df.graph.sites import Sites, find_sites, orders
from helix_df.solvers.api import Reason, SolveOptions, SolveResult, Termination, Watch
from helix_df.solvers.line import Line, LineSearch, site_layers
from helix_df.solvers.options import read_extra, refuse_backend
from helix_df.solvers.polish import Polish
from helix_df.solvers.portfolio import Candidate, best_baseline
from helix_df.solvers.stages import StagePacking
from helix_df.solvers.stopping import reason_to_stop

ALL_PLACEMENTS = 30_000
"""Placements up to which all are tried: about a second."""

FEW_NODES = 12
"""Nodes up to which moves from many random starts do better than covering, because links decide as much as layers."""

POLISHED_NODES = 120
"""Nodes up to which moves are judged one by one; beyond, a max flow takes too long for thousands of them."""

QUICK = 16
"""The very first attempt takes this share of the iterations."""

MOST_ORDERS = 6
"""Orders of up to three sites that are tried."""

MANY_SITES_ORDERS = 2
"""Orders of more sites than that: which order matters less than time spent on one."""


@dataclass(frozen=True, slots=True)
class CoverOptions:
    """``solver.options`` of cover.

    ``restarts``: attempts at covering the line; ``iterations``: changes tried in the first of them; ``polish``: moves
    judged by max flow after an attempt that gains.
    """

    restarts: int = 24
    iterations: int = 12000
    polish: int = 6000


@dataclass(frozen=True, slots=True)
class Attempt:
    """Lines to cover side by side (most often one with all sites)."""

    lines: tuple[Line, ...]


class CoverSolver:
    """Cover every layer with as many tokens/s as possible, as a packing of ranges on a line.

    With partial inference and links that don't bind, the flow is the minimum over layers of the capacity that covers
    the layer, so placing layers is covering a line; ``LineSearch`` does that, site by site where links are slow.
    ``Polish`` then judges small moves by the exact flow. Tiny problems are solved by trying every placement. Same
    problem, options and seed give the same placement, unless the time limit or an interruption cuts the search off.
    """

    name = "cover"

    def solve(self, problem: Problem, options: SolveOptions, watch: Watch) -> SolveResult:
        refuse_backend(self.name, options)
        own = read_extra(self.name, options.extra, CoverOptions)
        deadline_s = watch.elapsed_s() + options.time_limit_s
        start = best_baseline(problem, options, watch)
        search = CoverSearch(problem, options, own, watch, deadline_s, start)
        reason = search.run()
        detail = f"best by {search.source}" if search.best else "no placement found"
        return SolveResult(search.best, Termination(reason, search.bound, detail))


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
        self.chance = random.Random(options.seed)
        self.bound = best_bound(problem).bound
        self.sites = find_sites(problem)
        self.best: Placement | None = start.placement if start else None
        self.flow = start.flow if start else 0.0
        self.source = start.source if start else ""

    def run(self) -> Reason:
        """Search until proven, told to stop, out of time or out of attempts."""
        if self.bound <= 0:
            return "infeasible"
        if self._enough() is None and self._placements() <= ALL_PLACEMENTS:
            self._try_all()
            return "interrupted" if self.watch.stop.is_set() else "optimal" if self.best else "infeasible"
        if self._enough() is None:
            self._pack_stages()
        if self._enough() is None and len(self.judge.most) <= FEW_NODES:
            self._scatter()
            return self._enough() or ("time_limit" if self._late() else "finished")
        for attempt, iterations in self._attempts() if self._enough() is None else ():
            self._attempt(attempt, iterations)
            if self._enough() is not None or self._late():
                break
        reason = self._enough()
        return reason or ("time_limit" if self._late() else "finished")

    def _enough(self) -> Reason | None:
        return reason_to_stop(self.flow, self.bound, self.options, self.watch)

    def _late(self) -> bool:
        return self.watch.elapsed_s() >= self.deadline_s

    def _stop(self) -> bool:
        return self.watch.stop.is_set() or self._late()

    def _take(self, start: Ints, count: Ints, flow: float, source: str) -> bool:
        if flow <= self.flow:
            return False
        self.best, self.flow, self.source = self.judge.placement(start, count), flow, source
        self.watch.report("cover", flow, self.bound)
        return True

    def _pack_stages(self) -> None:
        """Stages of few nodes, packed exactly, for every order of the sites."""
        packing = StagePacking(self.judge, self.sites)
        for order in orders(self.sites, MOST_ORDERS) if packing.small else ():
            placed = packing.best(order, self.flow, self.bound * (1 + 1e-6))
            if placed is not None:
                gained = self._take(*placed, self.judge.flow(*placed), "packing stages")
                self._polish(*placed, self.judge.flow(*placed), gained)
            if self._enough() is not None or self._late():
                return

    def _scatter(self) -> None:
        """Polish from the best placement and from random ones."""
        for number in range(self.own.restarts):
            start, count = self.judge.arrays(self.best or {})
            if number % 4:
                count = np.array([self.chance.randint(0, int(most)) for most in self.judge.most], dtype=np.int64)
                start = np.array(
                    [self.chance.randint(0, self.judge.num_layers - int(k)) for k in count], dtype=np.int64
                )
            polish = Polish(self.judge, start, count, self.chance.getrandbits(32))
            polish.run(self.own.polish // 2, self.chance.choice((0.1, 0.3)), self.bound * (1 - 1e-9), self._stop)
            self._take(*polish.best, polish.best_flow, "moves judged by max flow")
            if self._enough() is not None or self._late():
                return

    def _attempts(self) -> Iterator[tuple[Attempt, int]]:
        """Every arrangement once, in an order that chance decides, then again with more and more iterations."""
        arrangements = list(_arrangements(self.judge, self.sites)) or [Attempt(())]
        first, rest = arrangements[:2], arrangements[2:]
        self.chance.shuffle(rest)
        yield first[0], max(1, self.own.iterations // QUICK)  # something better soon, for those who stop early
        size = min(max(len(self.judge.most) / 60, 1.0), 4.0)
        for number in range(self.own.restarts):
            turn, place = divmod(number, len(arrangements))
            yield (*first, *rest)[place], int(self.own.iterations * size * 2**turn)

    def _attempt(self, attempt: Attempt, iterations: int) -> None:
        total_start = np.zeros(len(self.judge.most), dtype=np.int64)
        total_count = np.zeros_like(total_start)
        for line in attempt.lines:
            members = tuple(node for site in line.sites for node in site)
            limit = _covering_limit(self.judge, members)
            least = self.flow / self.bound * limit if self.bound else 0.0
            target = least + (limit - least) * self.chance.uniform(0.8, 1.0)
            share = iterations if len(attempt.lines) == 1 else max(500, iterations // len(attempt.lines))
            found = LineSearch(self.judge, line, self.chance.getrandbits(32)).run(target, share, self._stop)
            if found is not None:
                total_start += found.start
                total_count += found.count
        flow = self.judge.flow(total_start, total_count)
        gained = self._take(total_start, total_count, flow, "covering the layers")
        self._polish(total_start, total_count, flow, gained)

    def _polish(self, start: Ints, count: Ints, flow: float, gained: bool) -> None:
        if len(self.judge.most) > POLISHED_NODES or self._enough() is not None:
            return
        if flow < 0.9 * self.flow and self.best is not None:
            start, count = self.judge.arrays(self.best)
        heat = self.chance.choice((0.003, 0.03, 0.1))
        polish = Polish(self.judge, start, count, self.chance.getrandbits(32))
        polish.run(self.own.polish if gained else self.own.polish // 3, heat, self.bound * (1 - 1e-9), self._stop)
        self._take(*polish.best, polish.best_flow, "moves judged by max flow")

    def _placements(self) -> int:
        layers, total = self.judge.num_layers, 1
        for most in self.judge.most.tolist():
            total *= 1 + sum(layers - k + 1 for k in range(1, most + 1))
            if total > ALL_PLACEMENTS:
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
            self._take(start, count, self.judge.flow(start, count), "trying every placement")
            if self.watch.stop.is_set():
                return
        self.bound = max(self.flow, 0.0)


def _covering_limit(judge: Judge, nodes: tuple[int, ...]) -> float:
    """The covering bound of some of the nodes, to three digits."""
    low, high = 0.0, float(judge.speed[list(nodes)].max(axis=1).sum())
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if site_layers(judge, nodes, middle) >= judge.num_layers else (low, middle)
    return high


def _arrangements(judge: Judge, sites: Sites) -> Iterator[Attempt]:
    """One line over all sites in several orders and with several widths of crossings; and a line a site."""
    shapes = (0.0, 1.0, -1.0)
    several = len(sites.members) > 1
    for order in orders(sites, MOST_ORDERS if len(sites.members) <= 3 else MANY_SITES_ORDERS):
        members = tuple(sites.members[g] for g in order)
        rates = tuple(float(sites.rates[a, b]) for a, b in pairwise(order))
        few = len(rates) <= 2
        for skews in product(shapes, repeat=len(rates)) if few else [(0.0,) * len(rates)]:
            for overlap in (0, 1) if several else (0,):
                yield Attempt((Line(members, rates, tuple(skews), overlap),))
    whole = tuple(site for site in sites.members if int(judge.most[list(site)].sum()) >= judge.num_layers)
    if several and whole:
        yield Attempt(tuple(Line((site,)) for site in whole))
