"""One restart of ``cover``, at a better placement: what it is, and how it is carried out.

A restart depends on nothing but its description and the incumbent, so it may run in any process, and the result is the
same. Owns the mix of covering and judged moves inside a restart. Doesn't choose restarts (``cover``).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from helix_df.graph.capacities import Ints
from helix_df.graph.judge import Judge
from helix_df.solvers.aligned_stages import AlignedStagesSearch
from helix_df.solvers.covering_walk import Cover
from helix_df.solvers.interval_cover import IntervalCoverSearch, SitePath, site_layers
from helix_df.solvers.objective import Objective
from helix_df.solvers.polish import Polish

Kind = Literal["interval_cover", "aligned_stages", "moves", "scatter"]
"""Cover paths side by side, fill so many aligned stages, move from the best placement, or move from anywhere."""

POLISHED_NODES = 120
"""Nodes up to which moves are judged one by one; beyond, a max flow takes too long for thousands of them."""

SOURCES = {
    "interval_cover": "covering the layers",
    "aligned_stages": "covering the layers in stages",
    "moves": "moves judged by max flow",
    "scatter": "moves judged by max flow",
}


@dataclass(frozen=True, slots=True)
class Restart:
    """What to try. ``paths`` are covered side by side (most often one through all sites), or so many ``stages``."""

    kind: Kind
    seed: int
    iterations: int
    polish: int
    paths: tuple[SitePath, ...] = ()
    stages: int = 0


@dataclass(frozen=True, slots=True)
class WeighedPlacement:
    """A placement as arrays, its flow and its worth in tokens/s, and who found it."""

    start: Ints
    count: Ints
    flow: float
    worth: float
    source: str


def nothing(objective: Objective) -> WeighedPlacement:
    """The best placement before anything is found."""
    zeros = np.zeros(len(objective.judge.most), dtype=np.int64)
    return WeighedPlacement(zeros, zeros, 0.0, 0.0, "")


def weigh(objective: Objective, start: Ints, count: Ints, source: str) -> WeighedPlacement | None:
    """A placement with its worth, unless it breaks a limit."""
    if not objective.admits(start, count):
        return None
    flow = objective.judge.flow(start, count)
    return WeighedPlacement(start, count, flow, flow - objective.cost(start, count), source)


def run_restart(
    objective: Objective, restart: Restart, best: WeighedPlacement, bound: float, stop: Callable[[], bool]
) -> WeighedPlacement:
    """The better of the best so far and what the restart finds. Deterministic unless stopped."""
    chance = random.Random(restart.seed)
    if restart.kind == "scatter":
        start, count = _anywhere(objective.judge, chance)
        return _polished(objective, start, count, restart.polish, chance.choice((0.1, 0.3)), chance, best, bound, stop)
    if restart.kind == "moves":
        heat = chance.choice((0.01, 0.03, 0.1, 0.3))
        return _polished(objective, best.start, best.count, restart.polish, heat, chance, best, bound, stop)
    found = _cover(objective, restart, best, bound, chance, stop)
    if found is None:
        return best
    covered = weigh(objective, found.start, found.count, SOURCES[restart.kind])
    gained = covered is not None and covered.worth > best.worth
    if covered is not None and gained:
        best = covered
    if len(objective.judge.most) > POLISHED_NODES or best.worth >= bound:
        return best
    start, count = found.start, found.count
    if best.source and (covered is None or covered.flow < 0.9 * best.flow):
        start, count = best.start, best.count
    steps = restart.polish if gained else restart.polish // 3
    return _polished(objective, start, count, steps, chance.choice((0.003, 0.03, 0.1)), chance, best, bound, stop)


def _cover(
    objective: Objective,
    restart: Restart,
    best: WeighedPlacement,
    bound: float,
    chance: random.Random,
    stop: Callable[[], bool],
) -> Cover | None:
    if restart.kind == "aligned_stages":
        target = best.flow + (bound - best.flow) * chance.uniform(0.5, 1.0)
        return AlignedStagesSearch(objective, restart.stages, chance.getrandbits(32)).run(
            target, restart.iterations, stop
        )
    start = np.zeros(len(objective.judge.most), dtype=np.int64)
    count = np.zeros_like(start)
    share = restart.iterations if len(restart.paths) == 1 else max(500, restart.iterations // len(restart.paths))
    for path in restart.paths:
        limit = _covering_limit(objective.judge, tuple(node for site in path.sites for node in site))
        least = best.flow / bound * limit if bound else 0.0
        target = least + (limit - least) * chance.uniform(0.8, 1.0)
        found = IntervalCoverSearch(objective, path, chance.getrandbits(32)).run(target, share, stop)
        if found is not None:
            start, count = start + found.start, count + found.count
    return Cover(0.0, *objective.keep_nodes(start, count)) if count.any() else None


def _polished(
    objective: Objective,
    start: Ints,
    count: Ints,
    steps: int,
    heat: float,
    chance: random.Random,
    best: WeighedPlacement,
    bound: float,
    stop: Callable[[], bool],
) -> WeighedPlacement:
    polish = Polish(objective, start, count, chance.getrandbits(32))
    polish.run(steps, heat, bound * (1 - 1e-9), stop)
    if polish.best is None or polish.best_worth <= best.worth:
        return best
    return WeighedPlacement(*polish.best, polish.best_flow, polish.best_worth, SOURCES["moves"])


def _anywhere(judge: Judge, chance: random.Random) -> tuple[Ints, Ints]:
    """A random range on every node."""
    count = np.array([chance.randint(0, int(most)) for most in judge.most], dtype=np.int64)
    start = np.array([chance.randint(0, judge.num_layers - int(k)) for k in count], dtype=np.int64)
    return start, count


def _covering_limit(judge: Judge, nodes: tuple[int, ...]) -> float:
    """The covering bound of some of the nodes, to three digits."""
    low, high = 0.0, float(judge.capacity[list(nodes)].max(axis=1).sum())
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if site_layers(judge, nodes, middle) >= judge.num_layers else (low, middle)
    return high
