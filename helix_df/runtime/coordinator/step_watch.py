"""Notices steps that are nowhere any more: a message of theirs was lost with a connection, or never arrived.

A step that takes long is no reason: it may wait behind others, on a worker that is slow. So workers are asked how far
a request is with them, which answer between two batches. If none of its pipeline holds a step of it, and the same again
later, it has none. Time and answers in, verdicts out; doesn't know sockets, nor what becomes of a request then.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from helix_df.runtime.wire.messages import Locate, Located, Send

LOOKS = 4
"""So many times in the time after which a step counts as lost its workers are asked."""


@dataclass(frozen=True, slots=True)
class RunningStep:
    """An attempt at a request that waits for its next token: it has so many, and each node of its pipeline listens at
    an address. After ``patience_s`` seconds without a trace its step counts as lost."""

    key: str
    tokens: int
    addresses: dict[str, str]
    patience_s: float


@dataclass(slots=True)
class _Watched:
    """Since when there is no new token, when was asked last, and what was answered since (computed, due).

    ``places`` are the last whole round of answers, and ``idle_s`` is since when they are the same and nobody holds a
    step. Times in seconds of one monotonic clock.
    """

    step: RunningStep
    since_s: float
    asked_s: float
    answers: dict[str, tuple[int, int]] = field(default_factory=dict)
    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    idle_s: float = math.inf


@dataclass(slots=True)
class StepWatch:
    """Watches over the steps of one coordinator."""

    _watched: dict[str, _Watched] = field(default_factory=dict)

    def look(self, steps: Iterable[RunningStep], now: float) -> list[Send]:
        """Take note of all steps that there are, and ask where those are which are late."""
        before, self._watched = self._watched, {}
        questions: list[Send] = []
        for step in steps:
            watched = before.get(step.key)
            if watched is None or watched.step.tokens != step.tokens:
                watched = _Watched(step, now, now)
            self._watched[step.key] = watched
            if now - watched.asked_s >= step.patience_s / LOOKS:
                watched.asked_s, watched.answers = now, {}
                questions += [Send(address, Locate(step.key)) for address in step.addresses.values()]
        return questions

    def on_located(self, answer: Located, now: float) -> bool:
        """Take an answer; whether the step is lost by that."""
        watched = self._watched.get(answer.request)
        if watched is None or answer.node not in watched.step.addresses:
            return False
        watched.answers[answer.node] = (answer.computed, answer.due)
        if len(watched.answers) < len(watched.step.addresses):
            return False
        places, watched.answers = watched.answers, {}
        if any(due > computed for computed, due in places.values()):
            watched.idle_s = math.inf
        elif places != watched.places or watched.idle_s == math.inf:
            watched.idle_s = now
        watched.places = places
        return now - watched.idle_s >= watched.step.patience_s * (LOOKS - 1) / LOOKS - 1e-6
