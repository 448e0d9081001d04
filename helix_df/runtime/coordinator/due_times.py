"""Times at which something is to happen to a request, earliest first. Pure.

Owns only the order: whoever notes a time says later whether it still means anything, since most requests end, or go on,
before the time has come.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class DueTimes:
    """Noted times in seconds of one monotonic clock; of equal ones, what was noted first comes first."""

    _heap: list[tuple[float, int, str]] = field(default_factory=list)
    _noted: int = 0

    def add(self, due_s: float, request: str) -> None:
        """Note a time for a request."""
        self._noted += 1
        heapq.heappush(self._heap, (due_s, self._noted, request))

    def __len__(self) -> int:
        return len(self._heap)

    def keep(self, counts: Callable[[str, float], bool]) -> None:
        """Forget all that counts no more: of most requests a deadline stays behind that is far away."""
        self._heap = [entry for entry in self._heap if counts(entry[2], entry[0])]
        heapq.heapify(self._heap)

    def first_s(self, counts: Callable[[str, float], bool]) -> float | None:
        """The earliest time that still ``counts``; earlier ones are forgotten."""
        while self._heap:
            due_s, _, request = self._heap[0]
            if counts(request, due_s):
                return due_s
            heapq.heappop(self._heap)
        return None

    def take(self) -> str:
        """Whose the earliest time is, which is done with."""
        return heapq.heappop(self._heap)[2]
