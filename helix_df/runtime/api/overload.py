"""What an API says that can't take more: what is full, and when to come again.

Owns the rate at which requests have left the queue lately. Doesn't know who waits there.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

from helix_df.runtime.api.keys import LimitReached

LATELY_S = 30.0
UNKNOWN_S = 5.0
"""When to come again if no request has left the queue lately."""
LONGEST_S = 60.0
_MOST_TIMES = 1000


class Drain:
    """How fast the queue drains, by the first tokens of the last 30 s."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._times: deque[float] = deque(maxlen=_MOST_TIMES)

    def note(self) -> None:
        """A request has its first token."""
        self._times.append(self._clock())

    def retry_after_s(self, waiting: int) -> float:
        """Seconds until half of those who wait now should have left the queue: then there is room, and still work."""
        now = self._clock()
        while self._times and now - self._times[0] > LATELY_S:
            self._times.popleft()
        if not self._times:
            return UNKNOWN_S
        rate = len(self._times) / max(now - self._times[0], 0.001)
        return min(LONGEST_S, waiting / 2 / rate)

    def queue_full(self, waiting: int) -> LimitReached:
        """What a client is told whom the queue has no room for."""
        return LimitReached(
            f"The queue is full: {waiting} requests wait, and more may not (runtime.max_queue).",
            "queue_full",
            self.retry_after_s(waiting),
        )


def whole_seconds(seconds: float) -> str:
    """A time as ``Retry-After`` has it: whole seconds, one or more."""
    return str(max(1, math.ceil(seconds)))
