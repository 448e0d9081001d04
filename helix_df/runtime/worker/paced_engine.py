"""A device on another one: an engine whose batches take as long as the declared device would.

Doesn't know links (``wire.emulation``) or what a batch computes.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from helix_df.profiles.timing import LayerTiming
from helix_df.runtime.requests import EngineHealth
from helix_df.runtime.worker.steps import Step, StepResult

log = logging.getLogger(__name__)

_BATCHES_A_LINE = 100


@dataclass(slots=True)
class Pace:
    """How long to rest after each piece of work, so that each takes as long as planned.

    What a rest was too long the following ones make good, so that lateness never adds up. So they do for work that took
    longer than planned, up to the length of one piece: nobody catches up for ever. Without ``catches_up``
    what is late stays late.
    """

    catches_up: bool = True
    _rest_s: float = 0.0
    _overslept_s: float = 0.0
    _held_up_s: float = 0.0

    def rest_s(self, planned_s: float, wall_s: float) -> float:
        """Seconds to rest after a piece that was to take ``planned_s`` seconds and took ``wall_s``."""
        self._rest_s = max(0.0, planned_s - wall_s)
        if self.catches_up:
            self._held_up_s = min(planned_s, self._held_up_s + max(0.0, wall_s - planned_s))
        self._overslept_s = self._made_good(self._overslept_s)
        self._held_up_s = self._made_good(self._held_up_s)
        return self._rest_s

    def rested(self, seconds: float) -> None:
        """So long the rest really was."""
        if self.catches_up:
            self._overslept_s += seconds - self._rest_s

    def _made_good(self, late_s: float) -> float:
        """Shorten the rest by ``late_s``, and say what is left of that."""
        shorter_s = min(late_s, self._rest_s)
        self._rest_s -= shorter_s
        return late_s - shorter_s


class CountingEngine(Protocol):
    """An engine that says when it compiles, as ``Engine`` does."""

    @property
    def kv_tokens(self) -> int: ...

    @property
    def health(self) -> EngineHealth: ...

    @property
    def compilations(self) -> int: ...

    def run(self, steps: Sequence[Step]) -> Sequence[StepResult]: ...

    def release(self, request: str) -> None: ...

    def fork(self, parent: str, child: str, tokens: int) -> None: ...

    def trim(self, request: str, tokens: int) -> None: ...

    def warm_up(self) -> Iterator[object]: ...

    def compile_next(self) -> None: ...


BatchSeconds = Callable[[Sequence[Step], float, float], float]
"""Seconds that a batch is to take, by its steps and the seconds of wall and processor time that it took."""


class PacedEngine:
    """An engine that waits after each batch until the batch has taken as long as ``planned_s`` says.

    Args:
        engine: what computes.
        planned_s: how long each batch is to take; ``slowed`` or ``as_profiled``.
        wall: seconds of a monotonic clock.
        cpu: seconds of processor time that this process has used.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        engine: CountingEngine,
        planned_s: BatchSeconds,
        *,
        wall: Callable[[], float] = time.perf_counter,
        cpu: Callable[[], float] = time.process_time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._engine = engine
        self._planned_s = planned_s
        # A stage times itself before it serves, and a hurried batch would look like a fast one.
        self._pace = Pace(catches_up=False)
        self._kept = _Kept()
        self._wall, self._cpu, self._sleep = wall, cpu, sleep

    @property
    def kv_tokens(self) -> int:
        """See ``StepEngine``."""
        return self._engine.kv_tokens

    @property
    def health(self) -> EngineHealth:
        """See ``StepEngine``."""
        return self._engine.health

    @property
    def compilations(self) -> int:
        """See ``CountingEngine``."""
        return self._engine.compilations

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
        """See ``StepEngine``; from here on it serves. Compiling isn't paced: a profile doesn't measure it."""
        self._pace = Pace()
        return self._engine.warm_up()

    def compile_next(self) -> None:
        """See ``StepEngine``. Nothing is compiled beside batches: they would take the longer, and be paced by that."""

    def run(self, steps: Sequence[Step]) -> Sequence[StepResult]:
        """See ``StepEngine``."""
        wall, cpu, compiled = self._wall(), self._cpu(), self._engine.compilations
        results = self._engine.run(steps)
        if self._engine.compilations == compiled:
            wall_s = self._wall() - wall
            planned_s = self._planned_s(steps, wall_s, self._cpu() - cpu)
            self._kept.note(planned_s, wall_s)
            self._rest(self._pace.rest_s(planned_s, wall_s))
        return results

    def _rest(self, rest_s: float) -> None:
        if rest_s > 0:
            started = self._wall()
            self._sleep(rest_s)
            self._pace.rested(self._wall() - started)


@dataclass(slots=True)
class _Kept:
    """Says in the log, every so many batches, whether this machine is fast enough for what it stands for."""

    batches: int = 0
    late: int = 0
    planned_s: float = 0.0
    wall_s: float = 0.0

    def note(self, planned_s: float, wall_s: float) -> None:
        self.batches += 1
        self.late += wall_s > planned_s
        self.planned_s += planned_s
        self.wall_s += wall_s
        if self.batches == _BATCHES_A_LINE:
            share = self.wall_s / self.planned_s if self.planned_s > 0 else 1.0
            log.info(
                "%d batches took %.0f%% of their time to compute; %d were late", self.batches, 100 * share, self.late
            )
            self.batches, self.late, self.planned_s, self.wall_s = 0, 0, 0.0, 0.0


def slowed(speed: float, *, on_cpu: bool) -> BatchSeconds:
    """Batches take ``1 / speed`` times as long as they really do.

    Args:
        speed: above 0, at most 1.
        on_cpu: whether the engine computes on this process' own threads. Then time that others took the core away
            isn't counted as work; the workers of a machine would else slow each other by more than their share.
    """

    def planned_s(_steps: Sequence[Step], wall_s: float, cpu_s: float) -> float:
        # Several threads use more processor time than passes; then all that passes is work.
        return (min(wall_s, cpu_s) if on_cpu else wall_s) / speed

    return planned_s


def as_profiled(timing: LayerTiming) -> BatchSeconds:
    """Batches take as long as the simulator says, whatever this machine is busy with, as long as it keeps up.

    Args:
        timing: of the node, its speed included.
    """

    def planned_s(steps: Sequence[Step], _wall_s: float, _cpu_s: float) -> float:
        # A drafted token counts as a request more: it is as much to compute, and reads the same context.
        decodes = Counter(len(step.layers) for step in steps if step.is_decode for _ in step.inputs)
        prompts = ((len(step.layers), len(step.inputs)) for step in steps if not step.is_decode)
        return timing.batch_s(decodes, prompts)

    return planned_s
