"""Which nodes aren't as fast as planned: from the time that their batches took, and were planned to take. Pure.

Owns over how long it is measured, and how much is a difference. Doesn't know plans or who acts on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

WINDOW_S = 30.0
"""Over which batches are looked at."""

LEAST_BUSY_S = 3.0
"""Time that batches must have taken meanwhile, for a speed to be known."""

TOLERANCE = 1.5
"""By which factor a node may be slower than planned, or faster than it was found to be, before that counts."""


@dataclass(frozen=True, slots=True)
class Busy:
    """How long all batches of a node took so far, and were planned to take at full speed; in seconds."""

    took_s: float
    planned_s: float


@dataclass(slots=True)
class MeasuredSpeeds:
    """What was seen of nodes; times are seconds of one clock."""

    _seen: dict[str, deque[tuple[float, Busy]]] = field(default_factory=dict)

    def look(self, nodes: Mapping[str, Busy], now: float) -> dict[str, float]:
        """The speed of each node over the last ``WINDOW_S``, as a share of its GPU type's, 1 at most; of those nodes
        alone that were busy enough."""
        speeds = {}
        for name in self._seen.keys() - nodes.keys():
            del self._seen[name]
        for name, busy in nodes.items():
            seen = self._seen.setdefault(name, deque())
            if seen and busy.took_s < seen[-1][1].took_s:
                seen.clear()  # another worker
            seen.append((now, busy))
            while len(seen) > 1 and now - seen[1][0] >= WINDOW_S:
                seen.popleft()
            since_s, first = seen[0]
            took_s = busy.took_s - first.took_s
            if now - since_s >= WINDOW_S and took_s >= LEAST_BUSY_S:
                speeds[name] = min(1.0, (busy.planned_s - first.planned_s) / took_s)
        return speeds


def differing(speeds: Mapping[str, float], planned: Mapping[str, float]) -> dict[str, float]:
    """Those of the measured speeds that are more than ``TOLERANCE`` times from what was planned with."""
    return {
        name: speed
        for name, speed in speeds.items()
        if not planned[name] / TOLERANCE <= speed <= planned[name] * TOLERANCE
    }
