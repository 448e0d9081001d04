"""Work that gives way to others' on the same cores."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Protocol, TypeVar

T = TypeVar("T")

STEP = 10
"""By how much a thread that gives way is nicer: beside one that doesn't it gets a tenth of a core (Linux gives a
thread 1.25 times less with each step)."""


class Priority(Protocol):
    """How a piece of work is done: it is called with the work, and returns or raises what that does."""

    def __call__(self, work: Callable[[], T]) -> T: ...


def as_ever(work: Callable[[], T]) -> T:
    """Work with the priority that this thread has."""
    return work()


def giving_way(work: Callable[[], T]) -> T:
    """Work in a thread that gives way, for which this one waits.

    A thread that was made nicer may not go back, so this one keeps its priority, and threads that it starts do; those
    that ``work`` starts, and leaves behind, give way for good, such as those that XLA compiles with. Where a
    priority is a process', which it is on all systems but Linux, nobody gives way.
    """
    done: Future[T] = Future()

    def run() -> None:
        if sys.platform == "linux":
            with suppress(OSError):
                thread = threading.get_native_id()
                os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + STEP)
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="gives-way", daemon=True).start()
    return done.result()
