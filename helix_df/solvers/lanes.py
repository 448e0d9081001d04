"""Attempts of one round side by side: one in this process, the others in a process of their own.

Owns what is said to the child. A round's attempts don't see each other's results, so where they run changes
nothing; without a second core, or when the child is lost, they run here one after the other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np

from helix_df.graph.problem_document import placement_document, to_document
from helix_df.solvers.attempts import Attempt, Incumbent, run_attempt
from helix_df.solvers.child import Child
from helix_df.solvers.line import Line
from helix_df.solvers.objective import Objective

LANES = 2
"""Attempts in a round. Fixed, so that a seed gives the same plan on every machine."""


class Lanes:
    """Runs the attempts of a round in this process, one after the other."""

    def __init__(self, objective: Objective, bound: float) -> None:
        self.objective, self.bound = objective, bound

    def run(self, attempts: Sequence[Attempt], best: Incumbent, stop: Callable[[], bool]) -> list[Incumbent]:
        """What each attempt finds, in their order; an attempt that is stopped gives its best so far."""
        return [run_attempt(self.objective, attempt, best, self.bound, stop) for attempt in attempts]


class TwoProcesses(Lanes):
    """Runs the first attempt here and the others in a child."""

    def __init__(self, objective: Objective, bound: float) -> None:
        super().__init__(objective, bound)
        near = objective.near
        self.child = Child("helix_df.solvers.lane_worker")
        self.child.tell(
            {
                "problem": to_document(objective.judge.problem),
                "near": None if near is None else {**asdict(near), "placement": placement_document(near.placement)},
                "bound": bound,
            }
        )

    def run(self, attempts: Sequence[Attempt], best: Incumbent, stop: Callable[[], bool]) -> list[Incumbent]:
        """As ``Lanes.run``; when stopped, attempts of the child that haven't ended find nothing."""
        here, there = attempts[:1], attempts[1:]
        for attempt in there:
            self.child.tell({"attempt": asdict(attempt), "best": incumbent_document(best)})
        found = super().run(here, best, stop)
        for attempt in there:
            answer = self.child.next(stop)
            if answer is not None:
                found.append(read_incumbent(answer))
            elif stop():
                found.append(best)
            else:
                found += super().run([attempt], best, stop)
        return found


@contextmanager
def open_lanes(objective: Objective, bound: float, *, small: bool) -> Iterator[Lanes]:
    """Lanes for a search; a ``small`` one ends before a child has started."""
    if small or len(os.sched_getaffinity(0)) < LANES:
        yield Lanes(objective, bound)
        return
    lanes = TwoProcesses(objective, bound)
    try:
        yield lanes
    finally:
        lanes.child.close()


def incumbent_document(incumbent: Incumbent) -> dict[str, Any]:
    """The incumbent in lists, numbers and texts."""
    return {
        "start": incumbent.start.tolist(),
        "count": incumbent.count.tolist(),
        "flow": incumbent.flow,
        "worth": incumbent.worth,
        "source": incumbent.source,
    }


def read_incumbent(document: dict[str, Any]) -> Incumbent:
    """The incumbent of a document."""
    start, count = (np.array(document[key], dtype=np.int64) for key in ("start", "count"))
    return Incumbent(start, count, document["flow"], document["worth"], document["source"])


def read_attempt(document: dict[str, Any]) -> Attempt:
    """The attempt of a document."""
    lines = tuple(
        Line(
            tuple(tuple(site) for site in line["sites"]),
            tuple(line["crossings"]),
            tuple(line["skews"]),
            line["overlap"],
        )
        for line in document["lines"]
    )
    return Attempt(**{**document, "lines": lines})
