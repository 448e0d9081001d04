"""How long steps of traced requests wait here and are computed, summed up until their attempt is over.

Pure: times are arguments. Only the step after which a token is drawn is timed, since a request waits for nothing else:
earlier pieces of its prompt are computed while that waits or is on its way. Where one of them is computed while the
last piece waits, that counts as computing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from helix_df.runtime.tracing.spans import HopSum
from helix_df.runtime.wire.messages import Forward, HopTimes
from helix_df.runtime.worker.steps import Step


@dataclass(slots=True)
class _Visit:
    """An attempt that runs here. Of the step that is here, if one is: when it came, its position, and how long it, or
    what had to be computed before it, has been computed since then."""

    origin_s: float
    prefill: HopSum = field(default_factory=HopSum)
    decode: HopSum = field(default_factory=HopSum)
    came_s: float | None = None
    position: int = 0
    computed_s: float = 0.0

    def came(self, position: int, at_s: float) -> None:
        self.came_s, self.position, self.computed_s = at_s, position, 0.0

    def left(self, at_s: float) -> None:
        if self.came_s is None:
            return
        taken_s = max(0.0, at_s - self.came_s)
        computed_s = min(self.computed_s, taken_s)
        step = (max(0.0, self.came_s - self.origin_s), taken_s - computed_s, computed_s)
        if self.prefill.steps:
            self.decode = self.decode.plus(*step)
        else:
            self.prefill = self.prefill.plus(*step)
        self.came_s = None


@dataclass(slots=True)
class HopRecorder:
    """The traced attempts on the worker of a node. What isn't traced costs a look into a dictionary."""

    node: str
    _visits: dict[str, _Visit] = field(default_factory=dict)
    _leaving: list[_Visit] = field(default_factory=list)

    @property
    def attempts(self) -> int:
        """Those that run here."""
        return len(self._visits)

    def came(self, message: Forward, at_s: float) -> None:
        """A step has come, and was taken in."""
        visit = self._visits.get(message.request)
        if visit is None:
            if message.route is None or not message.route.traced:
                return
            visit = self._visits[message.request] = _Visit(at_s)
        if message.wants_token:
            visit.came(message.position, at_s)

    def computed(self, steps: Sequence[Step], began_s: float, ended_s: float) -> None:
        """A batch was computed, and isn't sent yet."""
        for step in steps if self._visits else ():
            visit = self._visits.get(step.request)
            if visit is None or visit.came_s is None:
                continue
            visit.computed_s += max(0.0, ended_s - max(began_s, visit.came_s))
            if step.position == visit.position:
                self._leaving.append(visit)

    def leave(self, at_s: float) -> None:
        """What the last batch gave is sent from now on."""
        for visit in self._leaving:
            visit.left(at_s)
        self._leaving.clear()

    def over(self, attempts: Iterable[str]) -> list[HopTimes]:
        """What there is to tell of attempts that are over; nothing of those that weren't traced."""
        found = ((name, self._visits.pop(name, None)) for name in attempts)
        return [
            HopTimes(name, self.node, visit.origin_s, visit.prefill, visit.decode)
            for name, visit in found
            if visit is not None
        ]
