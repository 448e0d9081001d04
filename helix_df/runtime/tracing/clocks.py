"""How far the clock of another process is from ours, by the messages that go both ways anyhow.

A message that says when it was sent arrives at least as late as the clocks differ. The least of many such differences
is that of a message which nothing held up. Of two such, one each way, half the difference is how far the clocks are
apart, if the way there takes as long as the way back: so NTP does it (RFC 5905, section 8). Pure: times are arguments.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

_KEPT = 32
"""Messages that count. Clocks drift, by 50 µs a second at the worst, so what is old says less."""


@dataclass(slots=True)
class ClockLead:
    """By how much our clock is ahead when messages of somebody else arrive, the last ones."""

    _leads: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def note(self, sent_s: float, arrived_s: float) -> None:
        """A message that was sent by the other's clock has arrived by ours."""
        self._leads.append(arrived_s - sent_s)

    @property
    def least_s(self) -> float | None:
        """That of the quickest message; ``None`` before the first."""
        return min(self._leads, default=None)


def ahead_s(ours_s: float | None, theirs_s: float | None) -> float | None:
    """How far our clock is ahead of another's, by the least leads of both; ``None`` as long as one isn't known."""
    return None if ours_s is None or theirs_s is None else (ours_s - theirs_s) / 2
