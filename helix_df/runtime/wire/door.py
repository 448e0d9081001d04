"""Where frames come in: each is opened, checked and let in, or refused, counted and told of at a limited rate.

A receiver brings the check of what it knows (``worker.door``, ``coordinator.door``); what any receiver can check is in
``messages``. Nothing that comes in raises further inside. Doesn't know sockets.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from helix_df.runtime.wire.fields import FrameError, FrameFault
from helix_df.runtime.wire.framing import is_of_job, read_bundle, stranger_fault
from helix_df.runtime.wire.messages import Message

log = logging.getLogger(__name__)

TELL_EVERY_S = 5.0
"""So often at most a line tells what was refused, however much it was."""

MOST_FRAMES = 65_536
"""Of one bundle."""

_MOST_LINE = 600


@dataclass(frozen=True, slots=True)
class Malformed:
    """What is let in instead of a message that names this attempt at a request, is of this job, and was refused."""

    request: str


@dataclass(slots=True)
class Refusals:
    """How many frames were refused, by fault; every so often in words."""

    counts: Counter[str] = field(default_factory=Counter)
    _news: Counter[str] = field(default_factory=Counter)
    _last: object = ""
    _told_s: float = -math.inf

    def note(self, error: FrameError) -> None:
        """Count one."""
        self.count(error.fault, error)

    def count(self, fault: FrameFault, words: object) -> None:
        """Count one of a kind; ``words`` say why, should they be told."""
        self.counts[fault] += 1
        self._news[fault] += 1
        self._last = words

    def line(self, now: float) -> str | None:
        """What was refused since the last line, if it is time for one; ``now`` in seconds of any monotonic clock."""
        if not self._news or now - self._told_s < TELL_EVERY_S:
            return None
        self._told_s = now
        by_fault = ", ".join(f"{count:,} {fault}" for fault, count in self._news.most_common())
        self._news.clear()
        last = "; ".join(line.strip() for line in str(self._last).splitlines())
        return f"refused frames: {by_fault}; the last: {last}"[:_MOST_LINE]


class Door:
    """Opens frames for one receiver.

    Args:
        token: the job's secret.
        check: raises a ``FrameError`` for a message that can't be true in this job or isn't for this receiver.
    """

    def __init__(self, token: str, check: Callable[[Message], None]) -> None:
        self._token = token
        self.check = check
        self.refusals = Refusals()

    def open(self, frames: Sequence[Any]) -> Iterator[Message | Malformed]:
        """What comes in of a bundle, in its order; each is checked once those before it have been taken in."""
        if frames and not is_of_job(frames[0], self._token):
            # There may be very many of them, so they cost as little as can be.
            self.refusals.count(stranger_fault(frames[0]), "a message without this job's secret")
            return
        for found in self._read(frames):
            try:
                if isinstance(found, FrameError):
                    raise found
                self.check(found)
            except FrameError as error:
                self.refusals.note(error)
                request = error.request or getattr(found, "request", None)
                if request is not None:
                    yield Malformed(request)
            else:
                yield found

    def tell(self, now: float) -> None:
        """Say in the log what was refused, if it is time for that."""
        line = self.refusals.line(now)
        if line is not None:
            log.warning(line)

    def _read(self, frames: Sequence[Any]) -> Sequence[Message | FrameError]:
        if len(frames) > MOST_FRAMES:
            return [FrameError("a bundle that is too large", "size", found=f"{len(frames)} frames")]
        return list(read_bundle(frames, self._token))
