"""A mark for functions that the compiler should copy into their callers. Plain Python ignores it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])
INLINED: set[object] = set()


def inlined(function: F) -> F:
    """For what is small and called often: handing over all tables takes longer than what it does."""
    INLINED.add(function)
    return function
