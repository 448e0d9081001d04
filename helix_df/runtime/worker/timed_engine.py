"""An engine that knows how long its batches took, and how long they were planned to take.

Owns both sums. Doesn't judge them: who has planned compares (``jobs.speed_watch``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from helix_df.runtime.requests import EngineHealth
from helix_df.runtime.worker.paced_engine import BatchSeconds, CountingEngine
from helix_df.runtime.worker.steps import Step, StepResult


class TimedEngine:
    """Counts the batches that it serves; those that compile a program are left out, and so are those of warming up.

    Args:
        engine: what computes.
        planned_s: how long each batch is planned to take, by its GPU type at full speed.
        clock: seconds of a monotonic clock.
    """

    def __init__(
        self, engine: CountingEngine, planned_s: BatchSeconds, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._engine = engine
        self._planned_s = planned_s
        self._clock = clock
        self._serves = False
        self._busy_s = 0.0
        self._planned_busy_s = 0.0

    @property
    def kv_tokens(self) -> int:
        """See ``StepEngine``."""
        return self._engine.kv_tokens

    @property
    def health(self) -> EngineHealth:
        """See ``StepEngine``."""
        return replace(self._engine.health, busy_s=self._busy_s, planned_busy_s=self._planned_busy_s)

    def release(self, request: str) -> None:
        """See ``StepEngine``."""
        self._engine.release(request)

    def fork(self, parent: str, child: str, tokens: int) -> None:
        """See ``StepEngine``."""
        self._engine.fork(parent, child, tokens)

    def trim(self, request: str, tokens: int) -> None:
        """See ``StepEngine``."""
        self._engine.trim(request, tokens)

    def warm_up(self) -> Iterator[object]:
        """See ``StepEngine``; from here on it serves."""
        self._serves = True
        return self._engine.warm_up()

    def compile_next(self) -> None:
        """See ``StepEngine``."""
        self._engine.compile_next()

    def run(self, steps: Sequence[Step]) -> Sequence[StepResult]:
        """See ``StepEngine``."""
        began_s, compiled = self._clock(), self._engine.compilations
        results = self._engine.run(steps)
        if self._serves and self._engine.compilations == compiled:
            took_s = self._clock() - began_s
            self._busy_s += took_s
            self._planned_busy_s += self._planned_s(steps, took_s, took_s)
        return results
