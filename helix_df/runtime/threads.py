"""Threads: how many this process, or a child of it, computes on, said by an environment, since XLA reads it there; and
whether there can be as many as it takes."""

from __future__ import annotations

import threading
from collections.abc import Mapping

ONE_THREAD = "--xla_cpu_multi_thread_eigen=false"
"""What ``XLA_FLAGS`` holds for a process that computes on one thread."""


def with_one_thread(environment: Mapping[str, str]) -> bool:
    """Whether a process with this environment computes on one thread."""
    return ONE_THREAD in environment.get("XLA_FLAGS", "").split()


def require_threads(count: int) -> None:
    """Make sure that this process may have so many threads more. Libraries below Python end it where they get none.

    Raises:
        RuntimeError: when it may not.
    """
    enough = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=enough.wait)
            thread.start()
            started.append(thread)
    finally:
        enough.set()
        for thread in started:
            thread.join()
