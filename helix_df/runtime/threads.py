"""Threads: how many this process, or a child of it, computes on, said by an environment, since XLA reads it there; and
whether there can be as many as it takes."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path

ONE_THREAD = "--xla_cpu_multi_thread_eigen=false"
"""What ``XLA_FLAGS`` holds for a process whose programs compute on one thread each."""

THREADS_VARIABLE = "HELIX_DF_THREADS"
"""On how many threads a worker multiplies, whatever XLA does."""


_LARGE_PAGES = "glibc.malloc.hugetlb=1"


def with_one_thread(environment: Mapping[str, str]) -> bool:
    """Whether a process with this environment computes on one thread."""
    return ONE_THREAD in environment.get("XLA_FLAGS", "").split()


def threads_for_products(environment: Mapping[str, str], cores: int) -> int:
    """On how many threads a process with this environment multiplies, which may run on so many cores."""
    said = environment.get(THREADS_VARIABLE, "")
    if said.isdecimal():
        return max(1, int(said))
    return 1 if with_one_thread(environment) else cores


def with_threads(environment: Mapping[str, str], threads: int) -> dict[str, str]:
    """What to set beside this environment for a process that multiplies on so many threads.

    Nothing where it says how many already. XLA's programs have one each: what its products add up, and in which order,
    depends on how many it has.
    """
    if THREADS_VARIABLE in environment or with_one_thread(environment):
        return {}
    flags = f"{environment.get('XLA_FLAGS', '')} {ONE_THREAD}".strip()
    return {"XLA_FLAGS": flags, THREADS_VARIABLE: str(threads)}


def with_large_pages(environment: Mapping[str, str]) -> dict[str, str]:
    """What to set beside this environment so that a process gets its weights in large pages (glibc 2.35, Linux).

    Reading memory in pages of 4 KiB takes up to a quarter longer: a core's prefetching stops at the end of each.
    """
    tunables = environment.get("GLIBC_TUNABLES", "")
    if _LARGE_PAGES.partition("=")[0] in tunables:
        return {}
    return {"GLIBC_TUNABLES": ":".join(filter(None, (tunables, _LARGE_PAGES)))}


def usable_cores() -> tuple[int, ...]:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def granted_cores(limit: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores' worth of time that a container has (Linux's ``cpu.max``), one at least; all that there are without one."""
    most = os.cpu_count() or 1
    try:
        time, _, period = limit.read_text().strip().partition(" ")
        return most if time == "max" else max(1, min(most, int(time) // int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        return most


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
