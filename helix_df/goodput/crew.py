"""Tasks side by side: some of them in a process of its own, where there is a second core.

Owns the helper process and the words it understands. Tasks of a round don't see each other's results, so where they run
changes nothing but the time.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

from helix_df.goodput.brief import Brief, GoodputOptions
from helix_df.goodput.race import Pace
from helix_df.goodput.workshop import Audition, Bar, Explore, Final, Ranges, Scored, Task, Workshop
from helix_df.graph.problem_document import from_document, to_document
from helix_df.solvers.child import Child
from helix_df.spec.job import Job

CORES = 2
"""What two cores can do at a time."""

STOP: dict[str, Any] = {"kind": "stop"}
"""Tells a child to answer with what it has."""

Left = deque[tuple[int, Task]]
"""Tasks that nobody has begun, with their places in the round."""


class Crew:
    """Performs tasks in this process, one after the other."""

    def __init__(self, workshop: Workshop) -> None:
        self.workshop = workshop

    def perform(self, tasks: Sequence[Task], stop: Callable[[], bool]) -> list[list[Scored]]:
        """What each task finds, in their order; nothing for those that a stop cut off."""
        return [self.workshop.perform(task, stop) if not stop() else [] for task in tasks]


class CrewOfTwo(Crew):
    """Shares the tasks with a child."""

    def __init__(self, workshop: Workshop) -> None:
        super().__init__(workshop)
        self.child = Child("helix_df.goodput.crew_worker")
        brief = workshop.brief
        self.child.tell(
            {
                "job": brief.job.model_dump(mode="json", exclude_none=True),
                "options": asdict(brief.own),
                "problem": to_document(workshop.problem),
                "seed": workshop.seed,
            }
        )

    def perform(self, tasks: Sequence[Task], stop: Callable[[], bool]) -> list[list[Scored]]:
        left = deque(enumerate(tasks))
        found: list[list[Scored]] = [[] for _ in tasks]
        # Both take the next one when they are free: some tasks are given up early, others take seconds.
        theirs = threading.Thread(target=self.share, args=(left, found, stop), daemon=True)
        theirs.start()
        self.take(left, found, stop)
        theirs.join()
        # Whatever a child that died has put back.
        self.take(left, found, stop)
        return found

    def take(self, left: Left, found: list[list[Scored]], stop: Callable[[], bool]) -> None:
        """Perform tasks here until none is left."""
        while left and not stop():
            with suppress(IndexError):
                at, task = left.popleft()
                found[at] = self.workshop.perform(task, stop)

    def share(self, left: Left, found: list[list[Scored]], stop: Callable[[], bool]) -> None:
        """Let the child have tasks, one at a time, until none is left."""
        while left and not stop():
            try:
                at, task = left.popleft()
            except IndexError:
                return
            self.child.tell(task_document(task))
            answer = self.child.next(stop)
            if answer is None:
                # What it has until now, so that its next answer is one to the next question.
                self.child.tell(STOP)
                answer = self.child.next(lambda: False)
            if answer is None:
                left.appendleft((at, task))
                return
            found[at] = [read_scored(one) for one in answer]


@contextmanager
def open_crew(workshop: Workshop) -> Iterator[Crew]:
    """Whoever performs the tasks of a search."""
    if len(os.sched_getaffinity(0)) < CORES:
        yield Crew(workshop)
        return
    crew = CrewOfTwo(workshop)
    try:
        yield crew
    finally:
        crew.child.close()


def read_workshop(document: dict[str, Any]) -> Workshop:
    """The workshop that the first line to a child describes."""
    brief = Brief(Job.model_validate(document["job"]), GoodputOptions(**document["options"]))
    return Workshop(brief, from_document(document["problem"]), document["seed"])


def task_document(task: Task) -> dict[str, Any]:
    """A task in lists, numbers and texts."""
    return {"kind": type(task).__name__.lower(), **asdict(task)}


def read_task(document: dict[str, Any]) -> Task:
    """The task of a document."""
    match document["kind"]:
        case "explore":
            starts = tuple(_ranges(ranges) for ranges in document["starts"])
            return Explore(document["seed"], document["steps"], starts)
        case "final":
            return Final(_ranges(document["ranges"]), document["seed"], document["spread"])
        case _:
            return Audition(_ranges(document["ranges"]), _bar(document["bar"]), document["spread"])


def read_scored(document: dict[str, Any]) -> Scored:
    """A scored placement of a document."""
    return Scored(**{**document, "ranges": _ranges(document["ranges"]), "pace": _pace(document["pace"])})


def _ranges(document: list[list[int]]) -> Ranges:
    return tuple((start, count) for start, count in document)


def _bar(document: dict[str, Any]) -> Bar:
    return Bar(**{**document, "pace": _pace(document["pace"])})


def _pace(document: list[list[Any]]) -> Pace:
    return tuple((time_s, tokens) for time_s, tokens in document)
