"""How many threads this process, or a child of it, computes on: said by an environment, since XLA reads it there."""

from __future__ import annotations

from collections.abc import Mapping

ONE_THREAD = "--xla_cpu_multi_thread_eigen=false"
"""What ``XLA_FLAGS`` holds for a process that computes on one thread."""


def with_one_thread(environment: Mapping[str, str]) -> bool:
    """Whether a process with this environment computes on one thread."""
    return ONE_THREAD in environment.get("XLA_FLAGS", "").split()
