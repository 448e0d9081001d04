"""Attempts of one round side by side: one in this process, the others in a process of their own.

Owns the child and what is said to it. A round's attempts don't see each other's results, so where they run changes
nothing; without a second core, or when the child is lost, they run here one after the other.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from helix_df.graph.problem_document import placement_document, to_document
from helix_df.solvers.attempts import Attempt, Incumbent, run_attempt
from helix_df.solvers.line import Line
from helix_df.solvers.objective import Objective

LANES = 2
"""Attempts in a round. Fixed, so that a seed gives the same plan on every machine."""

POLL_S = 0.02
"""Seconds between looks at the stop signal while the child works on."""


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
        self._process = _start_child()
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        near = objective.near
        self._tell(
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
            self._tell({"attempt": asdict(attempt), "best": incumbent_document(best)})
        found = super().run(here, best, stop)
        for attempt in there:
            answer = self._next(stop)
            if answer is not None:
                found.append(answer)
            elif stop():
                found.append(best)
            else:
                found += super().run([attempt], best, stop)
        return found

    def _tell(self, document: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(document) + "\n")
            self._process.stdin.flush()
        except OSError:
            return  # The reader notices the end, and the attempts run here.

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _next(self, stop: Callable[[], bool]) -> Incumbent | None:
        while True:
            try:
                line = self._lines.get(timeout=POLL_S)
            except queue.Empty:
                if stop():
                    return None
                continue
            if not line:
                self._lines.put("")
                return None
            return read_incumbent(json.loads(line))

    def close(self) -> None:
        """End the child, busy or not."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


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
        lanes.close()


def _start_child() -> subprocess.Popen[str]:
    package_root = str(Path(__file__).parents[2])
    path = os.pathsep.join([package_root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-m", "helix_df.solvers.lane_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


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
