"""When workers that have ended are started again: soon, later each time, and soon again after long service. Pure.

Owns the back-off. Doesn't know launchers, processes or why a worker ended.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

FIRST_S = 0.5
"""Seconds until a worker is started again that served for long."""

LONGEST_S = 30.0
"""Most seconds that anybody waits."""

STEADY_S = 60.0
"""Whoever lasted so many seconds is no longer taken for one that ends at once."""


@dataclass(slots=True)
class Restarts:
    """Back-off by node; times are in seconds of one monotonic clock. ``counts`` are starts after an end, in all."""

    counts: Counter[str] = field(default_factory=Counter)
    _started: dict[str, float] = field(default_factory=dict)
    _in_a_row: Counter[str] = field(default_factory=Counter)
    _due: dict[str, float] = field(default_factory=dict)

    def started(self, node: str, now: float) -> None:
        """The worker of a node was started."""
        self._started[node] = now

    def ended(self, node: str, now: float) -> float:
        """It has ended; seconds until it is started again."""
        if now - self._started.get(node, now) >= STEADY_S:
            del self._in_a_row[node]
        self._in_a_row[node] += 1
        self.counts[node] += 1
        wait_s = min(LONGEST_S, float(FIRST_S * 2.0 ** (self._in_a_row[node] - 1)))
        self._due[node] = now + wait_s
        return wait_s

    def due(self, now: float) -> list[str]:
        """Nodes whose worker is to be started now, each told once."""
        nodes = sorted(node for node, due_s in self._due.items() if due_s <= now)
        for node in nodes:
            del self._due[node]
        return nodes
