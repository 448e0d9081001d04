"""Restarts of one round side by side: one in this process, the others in a process of their own.

Owns what is said to the child. A round's restarts don't see each other's results, so where they run changes
nothing; without a second core, or when the child is lost, they run here one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from helix_df.graph.problem import Problem
from helix_df.plan.moves import Near
from helix_df.solvers.child import Child, ChildEnded
from helix_df.solvers.cores import usable_cores
from helix_df.solvers.objective import Objective
from helix_df.solvers.restarts import Restart, WeighedPlacement, run_restart

SIDE_BY_SIDE = 2
"""Restarts in a round. Fixed, so that a seed gives the same plan on every machine."""

POLL_S = 0.02
"""Seconds between looks at the stop signal while the child works on."""


@dataclass(frozen=True, slots=True)
class RestartSetup:
    """What all restarts of a search share."""

    problem: Problem
    near: Near | None
    bound: float


@dataclass(frozen=True, slots=True)
class RestartRequest:
    """A restart and the best placement before it."""

    restart: Restart
    best: WeighedPlacement


class SerialRestarts:
    """Runs the restarts of a round in this process, one after the other."""

    def __init__(self, objective: Objective, bound: float) -> None:
        self.objective, self.bound = objective, bound

    def run(
        self, restarts: Sequence[Restart], best: WeighedPlacement, stop: Callable[[], bool]
    ) -> list[WeighedPlacement]:
        """What each restart finds, in their order; a restart that is stopped gives its best so far."""
        return [run_restart(self.objective, restart, best, self.bound, stop) for restart in restarts]


class ParallelRestarts(SerialRestarts):
    """Runs the first restart here and the others in a child."""

    def __init__(self, objective: Objective, bound: float) -> None:
        super().__init__(objective, bound)
        self.child = Child("helix_df.solvers.restart_worker")
        self.child.tell(RestartSetup(objective.judge.problem, objective.near, bound))

    def run(
        self, restarts: Sequence[Restart], best: WeighedPlacement, stop: Callable[[], bool]
    ) -> list[WeighedPlacement]:
        """As ``SerialRestarts.run``; when stopped, restarts of the child that haven't ended find nothing."""
        here, there = restarts[:1], restarts[1:]
        for restart in there:
            self.child.tell(RestartRequest(restart, best))
        found = super().run(here, best, stop)
        for restart in there:
            try:
                found.append(self._answer(stop) or best)
            except ChildEnded:
                found += super().run([restart], best, stop)
        return found

    def _answer(self, stop: Callable[[], bool]) -> WeighedPlacement | None:
        while (answer := self.child.next(WeighedPlacement, POLL_S)) is None:
            if stop():
                return None
        return answer


@contextmanager
def open_restarts(objective: Objective, bound: float, *, small: bool) -> Iterator[SerialRestarts]:
    """Who runs the restarts of a search; a ``small`` one ends before a child has started."""
    if small or usable_cores() < SIDE_BY_SIDE:
        yield SerialRestarts(objective, bound)
        return
    restarts = ParallelRestarts(objective, bound)
    try:
        yield restarts
    finally:
        restarts.child.close()
