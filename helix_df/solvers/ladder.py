"""Covering the layers by rungs: stages whose nodes all hold the same layers, as many as a limit on hops allows.

Owns the local search for where rungs meet and which node stands on which. A rung's capacity is the sum of its nodes',
so the flow is that of the weakest rung where links don't bind; what links do is for the max flow to judge.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np

from helix_df.graph.capacities import Floats, Ints
from helix_df.solvers.line import FALL, PATIENCE, Found
from helix_df.solvers.objective import Objective

OUT = -1
"""The rung of a node that holds nothing."""


class LadderSearch:
    """Ruin and recreate over rungs: a few nodes step off, each steps on again where it fills most.

    The objective is the sum over layers of what is missing to the target; when nothing is, the target rises.
    """

    def __init__(self, objective: Objective, rungs: int, seed: int) -> None:
        self.objective, self.judge = objective, objective.judge
        self.chance = random.Random(seed)
        layers = self.judge.num_layers
        self.meets = np.array([round(layers * r / rungs) for r in range(rungs + 1)], dtype=np.int64)
        self.free = [int(i) for i in np.flatnonzero(self.judge.most) if i not in objective.fixed]
        self.rung = np.full(len(self.judge.most), OUT, dtype=np.int64)
        self.target = 0.0

    def run(self, target: float, iterations: int, stop: Callable[[], bool]) -> Found | None:
        """The best placement found and the target it serves, or ``None``. Deterministic unless stopped."""
        self.target, best = target, None
        for node in sorted(self.free, key=lambda i: -float(self.judge.speed[i].max())):
            self._step_on(node)
        missing = self._missing()
        patience = max(1, iterations // PATIENCE)
        for iteration in range(iterations):
            if missing <= 1e-9 * self.target:
                best = self._found()
                self.target = max(self.target * 1.002, self._weakest() * 1.0005)
                missing = self._missing()
            elif best is None and iteration % patience == patience - 1:
                self.target *= FALL
                missing = self._missing()
            if iteration % 16 == 0 and stop():
                break
            heat = 0.1 * self.target * (1 - iteration / iterations) ** 2 + 1e-9
            kept = self.meets.copy(), self.rung.copy()
            self._change()
            changed = self._missing()
            if changed <= missing or self.chance.random() < math.exp((missing - changed) / heat):
                missing = changed
            else:
                self.meets, self.rung = kept
        return best

    def _lengths(self) -> Ints:
        return np.diff(self.meets)

    def _speeds(self, node: int, lengths: Ints) -> Floats:
        """Tokens/s of a node on each rung; 0 where it doesn't fit."""
        row = self.judge.speed[node]
        return np.where(lengths <= self.judge.most[node], row[np.minimum(lengths, len(row) - 1)], 0.0)

    def _covered(self) -> tuple[Floats, Floats]:
        """Tokens/s and requests on each rung."""
        lengths = self._lengths()
        on = np.flatnonzero(self.rung >= 0)
        rungs = self.rung[on]
        held = lengths[rungs]
        covered, requests = np.zeros(len(lengths)), np.zeros(len(lengths))
        np.add.at(covered, rungs, self.judge.speed[on, held])
        if self.objective.requests is not None:
            np.add.at(requests, rungs, self.objective.requests[on, held])
        return covered, requests

    def _weakest(self) -> float:
        return float(self._covered()[0].min())

    def _lack(self) -> tuple[Floats, Floats]:
        """What each rung misses to the target, and of requests in the same unit."""
        covered, requests = self._covered()
        wanted = self.judge.problem.limits.min_requests
        lack = np.maximum(1 - requests / wanted, 0.0) if wanted else np.zeros(len(covered))
        return np.maximum(self.target - covered, 0.0), lack * self.target

    def _missing(self) -> float:
        tokens, requests = self._lack()
        return float((self._lengths() * (tokens + requests)).sum())

    def _step_on(self, node: int) -> None:
        """Put a node on the rung where it fills most."""
        lengths = self._lengths()
        speeds = self._speeds(node, lengths)
        if not (speeds > 0).any():
            self.rung[node] = OUT
            return
        tokens, lack = self._lack()
        gains = lengths * np.minimum(speeds, tokens)
        wanted = self.judge.problem.limits.min_requests
        if self.objective.requests is not None:
            row = self.objective.requests[node]
            fit = row[np.minimum(lengths, len(row) - 1)] * self.target / wanted
            gains = gains + lengths * np.minimum(fit, lack)
        self.rung[node] = int(np.where(speeds > 0, gains, -1.0).argmax())

    def _change(self) -> None:
        move = len(self.meets) > 2 and self.chance.random() < 0.15
        chosen = self._move_meet() if move else self._some()
        self.rung[chosen] = OUT
        self.chance.shuffle(chosen)
        for node in chosen:
            self._step_on(node)

    def _some(self) -> list[int]:
        """A few nodes, half the time from a rung that has more than it needs."""
        size = min(self.chance.randint(1, 4), len(self.free))
        if self.chance.random() < 0.5:
            rich = int(self._covered()[0].argmax())
            there = [node for node in self.free if self.rung[node] == rich]
            return self.chance.sample(there, min(size, len(there)))
        return self.chance.sample(self.free, size)

    def _move_meet(self) -> list[int]:
        """Move the layer where two rungs meet; the nodes on both step off."""
        place = self.chance.randrange(1, len(self.meets) - 1)
        moved = int(self.meets[place]) + self.chance.choice((-2, -1, 1, 2))
        if not self.meets[place - 1] < moved < self.meets[place + 1]:
            return []
        self.meets[place] = moved
        there = [node for node in self.free if self.rung[node] in (place - 1, place)]
        if len(there) > 24:
            lengths = self._lengths()
            tight = [node for node in there if lengths[self.rung[node]] > self.judge.most[node]]
            return list(dict.fromkeys([*tight, *self.chance.sample(there, 12)]))
        return there

    def _found(self) -> Found:
        on = self.rung >= 0
        start = np.where(on, self.meets[:-1][self.rung], 0)
        count = np.where(on, self._lengths()[self.rung], 0)
        return Found(self.target, *self.objective.keep_nodes(start, count))
