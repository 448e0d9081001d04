"""When bundles left for other workers and came from them, for ``rules.measured_links`` to tell what links do.

Owns which bundles say so: each large one, and others once in a while, since a bundle that does is longer by that. Pure:
times are arguments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from helix_df.rules.measured_links import LinkMeter, LinkSeen
from helix_df.runtime.wire.message_kinds import MOST_LINKS
from helix_df.runtime.wire.messages import Departed

LARGE_BYTES = 4096
"""Each bundle of so many bytes says when it left."""

PAUSE_S = 0.1
"""After it says so, a smaller one doesn't for so long."""

TELL_S = 0.5
"""How often what was seen is put together."""


@dataclass(slots=True)
class Departures:
    """The bundles of one worker, by the address they go to."""

    node: str
    _told_s: dict[str, float] = field(default_factory=dict)

    def of(self, address: str, frames: Sequence[Any], now: float) -> Departed | None:
        """What a bundle is to say of itself that leaves now, if anything."""
        if now - self._told_s.get(address, -math.inf) < PAUSE_S and size_of(frames) < LARGE_BYTES:
            return None
        self._told_s[address] = now
        return Departed(self.node, now)


@dataclass(slots=True)
class Arrivals:
    """The bundles that come to one worker, by who sent them."""

    _meters: dict[str, LinkMeter] = field(default_factory=dict)
    _told_s: float = -math.inf

    def note(self, departed: Departed, frames: Sequence[Any], noticed_s: float, *, at_once: bool) -> None:
        """A bundle that ends with the word of when it left was noticed (``LinkMeter.note``)."""
        meter = self._meters.pop(departed.node, None) or LinkMeter()
        self._meters[departed.node] = meter
        meter.note(size_of(frames), departed.clock_s, noticed_s, at_once=at_once)

    def seen(self, now: float, before: tuple[LinkSeen, ...]) -> tuple[LinkSeen, ...]:
        """What there is to tell of the links that were used last; what was told ``before``, if that was just now."""
        if now - self._told_s < TELL_S:
            return before
        self._told_s = now
        last = list(self._meters.items())[-MOST_LINKS:]
        return tuple(seen for tail, meter in last if (seen := meter.seen(tail)) is not None)


def size_of(frames: Sequence[Any]) -> int:
    """Bytes of a bundle."""
    return sum(memoryview(frame).nbytes for frame in frames)
