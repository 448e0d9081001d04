"""Judgements side by side, on threads: the simulator and the estimate hold no interpreter lock.

Owns how many at a time. The tasks of a round don't see each other's results, which come back in the order of the tasks,
so how many workers there are changes nothing but the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from helix_df.solvers.cores import usable_cores

Task = TypeVar("Task")
Found = TypeVar("Found")


class WorkerPool:
    """Performs the tasks of a round on threads."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads

    def perform(
        self, work: Callable[[Task], Found], tasks: Sequence[Task], stop: Callable[[], bool]
    ) -> list[Found | None]:
        """What each task finds, in their order; ``None`` for those that a stop kept from beginning."""
        return list(self._threads.map(lambda task: None if stop() else work(task), tasks))


@contextmanager
def open_pool(workers: int | None = None) -> Iterator[WorkerPool]:
    """A pool with a worker for each usable core, or with so many."""
    with ThreadPoolExecutor(workers or usable_cores(), thread_name_prefix="simulate") as threads:
        yield WorkerPool(threads)
