"""What a worker does while nobody asks it for anything: compile the shapes that are still cold, one after the other.

Each is compiled by another thread, so that a request which comes meanwhile doesn't wait for it, and that thread gives
way to everything else; what is left, to run it once, is short and the worker's own. Doesn't know when nobody is here.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

from helix_df.runtime.priority import Priority, giving_way

_END_S = 5.0
"""Seconds that a compilation under way gets at the end; a thread inside of XLA can't be ended."""


class ColdEngine(Protocol):
    """An engine with shapes to compile."""

    def compile_next(self) -> None:
        """Compile what ``warm_up`` makes next; may run in another thread beside everything else."""
        ...

    def warm_up(self) -> Iterator[object]:
        """Make what is still cold ready, a shape at a time; quickly, if it is compiled."""
        ...


class Leisure:
    """Of one worker. ``wake`` ends its waiting for messages."""

    def __init__(self, engine: ColdEngine, wake: Callable[[], None], priority: Priority = giving_way) -> None:
        self._engine = engine
        self._wake = wake
        self._priority = priority
        self._still_cold = engine.warm_up()
        self._compiling: threading.Thread | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a shape is being compiled, so that there is nothing to do but to wait."""
        return self._compiling is not None and self._compiling.is_alive()

    def use(self, finish: Priority) -> None:
        """Go on a little; what a compiled shape still needs is done with the priority ``finish``."""
        if self._compiling is None:
            self._compiling = threading.Thread(target=self._compile, name="compiles-ahead", daemon=True)
            self._compiling.start()
        elif not self._compiling.is_alive():
            self._compiling = None
            finish(lambda: next(self._still_cold, None))

    def close(self) -> None:
        """Begin nothing more."""
        if self._compiling is not None:
            self._compiling.join(_END_S)

    def _compile(self) -> None:
        with contextlib.suppress(Exception):  # whatever it is, it comes again where it is told: in `warm_up`
            self._priority(self._engine.compile_next)
        self._wake()
