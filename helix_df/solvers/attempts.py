"""One attempt of ``cover`` at a better placement: what it is, and how it is carried out.

An attempt depends on nothing but its description and the incumbent, so it may run in any process, and the result is the
same. Owns the mix of covering and judged moves inside an attempt. Doesn't choose attempts (``cover``).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from helix_df.graph.capacities import Ints
from helix_df.graph.judge import Judge
from helix_df.solvers.ladder import LadderSearch
from helix_df.solvers.line import Found, Line, LineSearch, site_layers
from helix_df.solvers.objective import Objective
from helix_df.solvers.polish import Polish

Kind = Literal["lines", "ladder", "moves", "scatter"]
"""Cover lines side by side, climb a ladder of so many rungs, move from the incumbent, or move from anywhere."""

POLISHED_NODES = 120
"""Nodes up to which moves are judged one by one; beyond, a max flow takes too long for thousands of them."""

SOURCES = {
    "lines": "covering the layers",
    "ladder": "covering the layers in stages",
    "moves": "moves judged by max flow",
    "scatter": "moves judged by max flow",
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """What to try. ``lines`` are covered side by side (most often one with all sites); ``rungs`` are of a ladder."""

    kind: Kind
    seed: int
    iterations: int
    polish: int
    lines: tuple[Line, ...] = ()
    rungs: int = 0


@dataclass(frozen=True, slots=True)
class Incumbent:
    """The best placement so far as arrays, its flow and its worth in tokens/s, and who found it."""

    start: Ints
    count: Ints
    flow: float
    worth: float
    source: str


def nothing(objective: Objective) -> Incumbent:
    """The incumbent before anything is found."""
    zeros = np.zeros(len(objective.judge.most), dtype=np.int64)
    return Incumbent(zeros, zeros, 0.0, 0.0, "")


def weigh(objective: Objective, start: Ints, count: Ints, source: str) -> Incumbent | None:
    """A placement as an incumbent, unless it breaks a limit."""
    if not objective.admits(start, count):
        return None
    flow = objective.judge.flow(start, count)
    return Incumbent(start, count, flow, flow - objective.cost(start, count), source)


def run_attempt(
    objective: Objective, attempt: Attempt, best: Incumbent, bound: float, stop: Callable[[], bool]
) -> Incumbent:
    """The best of the incumbent and what the attempt finds. Deterministic unless stopped."""
    chance = random.Random(attempt.seed)
    if attempt.kind == "scatter":
        start, count = _anywhere(objective.judge, chance)
        return _polished(objective, start, count, attempt.polish, chance.choice((0.1, 0.3)), chance, best, bound, stop)
    if attempt.kind == "moves":
        heat = chance.choice((0.01, 0.03, 0.1, 0.3))
        return _polished(objective, best.start, best.count, attempt.polish, heat, chance, best, bound, stop)
    found = _cover(objective, attempt, best, bound, chance, stop)
    if found is None:
        return best
    covered = weigh(objective, found.start, found.count, SOURCES[attempt.kind])
    gained = covered is not None and covered.worth > best.worth
    if covered is not None and gained:
        best = covered
    if len(objective.judge.most) > POLISHED_NODES or best.worth >= bound:
        return best
    start, count = found.start, found.count
    if best.source and (covered is None or covered.flow < 0.9 * best.flow):
        start, count = best.start, best.count
    steps = attempt.polish if gained else attempt.polish // 3
    return _polished(objective, start, count, steps, chance.choice((0.003, 0.03, 0.1)), chance, best, bound, stop)


def _cover(
    objective: Objective,
    attempt: Attempt,
    best: Incumbent,
    bound: float,
    chance: random.Random,
    stop: Callable[[], bool],
) -> Found | None:
    if attempt.kind == "ladder":
        target = best.flow + (bound - best.flow) * chance.uniform(0.5, 1.0)
        return LadderSearch(objective, attempt.rungs, chance.getrandbits(32)).run(target, attempt.iterations, stop)
    start = np.zeros(len(objective.judge.most), dtype=np.int64)
    count = np.zeros_like(start)
    share = attempt.iterations if len(attempt.lines) == 1 else max(500, attempt.iterations // len(attempt.lines))
    for line in attempt.lines:
        limit = _covering_limit(objective.judge, tuple(node for site in line.sites for node in site))
        least = best.flow / bound * limit if bound else 0.0
        target = least + (limit - least) * chance.uniform(0.8, 1.0)
        found = LineSearch(objective, line, chance.getrandbits(32)).run(target, share, stop)
        if found is not None:
            start, count = start + found.start, count + found.count
    return Found(0.0, *objective.keep_nodes(start, count)) if count.any() else None


def _polished(
    objective: Objective,
    start: Ints,
    count: Ints,
    steps: int,
    heat: float,
    chance: random.Random,
    best: Incumbent,
    bound: float,
    stop: Callable[[], bool],
) -> Incumbent:
    polish = Polish(objective, start, count, chance.getrandbits(32))
    polish.run(steps, heat, bound * (1 - 1e-9), stop)
    if polish.best is None or polish.best_worth <= best.worth:
        return best
    return Incumbent(*polish.best, polish.best_flow, polish.best_worth, SOURCES["moves"])


def _anywhere(judge: Judge, chance: random.Random) -> tuple[Ints, Ints]:
    """A random range on every node."""
    count = np.array([chance.randint(0, int(most)) for most in judge.most], dtype=np.int64)
    start = np.array([chance.randint(0, judge.num_layers - int(k)) for k in count], dtype=np.int64)
    return start, count


def _covering_limit(judge: Judge, nodes: tuple[int, ...]) -> float:
    """The covering bound of some of the nodes, to three digits."""
    low, high = 0.0, float(judge.speed[list(nodes)].max(axis=1).sum())
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if site_layers(judge, nodes, middle) >= judge.num_layers else (low, middle)
    return high
