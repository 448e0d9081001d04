"""What an API says that can't take more: what is full, and when to come again.

Owns the rate at which requests have left the queue lately, and whether there is room for more. Doesn't know who waits
there, or how a refusal is sent.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

from helix_df.errors import RequestError
from helix_df.rules.fair_queue import key_may_wait
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

    def key_queue_full(self, owner: str, own: int, waiting: int) -> LimitReached:
        """What a client is told whose API key has its share of the queue."""
        return LimitReached(
            f"The API key '{owner}' has its share of the queue: {own} requests of {waiting} that wait.",
            "key_queue_full",
            self.retry_after_s(waiting),
        )


class QueueRoom:
    """Whether the queue takes one more.

    Args:
        waiting: how many wait, all or of the API key of a name.
        max_queue: most that may; no limit if None.
        drain: says when to come again.
    """

    def __init__(self, waiting: Callable[[str | None], int], max_queue: int | None, drain: Drain) -> None:
        self._waiting = waiting
        self._max_queue = max_queue
        self.drain = drain

    @property
    def is_ample(self) -> bool:
        """Whether there is room for whoever comes; looked at first, since it costs least."""
        return self._max_queue is None or 2 * self._waiting(None) < self._max_queue

    def refusal(self, owner: str | None) -> LimitReached | None:
        """Why a request that came with this API key, or without one, can't join now; None if it can."""
        waiting = self._waiting(None)
        if self._max_queue is None or 2 * waiting < self._max_queue:
            return None
        if waiting >= self._max_queue:
            return self.drain.queue_full(waiting)
        own = 0 if owner is None else self._waiting(owner)
        if owner is None or key_may_wait(own, waiting, self._max_queue):
            return None
        return self.drain.key_queue_full(owner, own, waiting)

    def reworded(self, error: RequestError, owner: str | None) -> LimitReached | None:
        """The same refusal with when to come again, if it is one that the queue's machine gave."""
        if error.code == "queue_full":
            return self.drain.queue_full(self._waiting(None))
        if error.code == "key_queue_full" and owner is not None:
            return self.drain.key_queue_full(owner, self._waiting(owner), self._waiting(None))
        return None


def whole_seconds(seconds: float) -> str:
    """A time as ``Retry-After`` has it: whole seconds, one or more."""
    return str(max(1, math.ceil(seconds)))
