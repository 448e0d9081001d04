"""When messages arrive over emulated links. Pure: sizes and the time in, the messages that are there by now out.

A link is a serial resource: its messages cross one after another at its bandwidth, and each is there one latency after
its last byte has left, which is how the simulator sees a link, too. Doesn't know sockets, threads or clocks.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(slots=True)
class Lane:
    """One direction of a link, and what it has carried: ``busy_s`` is the time that took."""

    bytes_per_s: float
    latency_s: float
    free_s: float = -math.inf
    messages: int = 0
    bytes: int = 0
    busy_s: float = 0.0

    def carry(self, size: int, now: float) -> float:
        """Take a message of ``size`` bytes at ``now``, and say when it arrives. ``now`` never goes back."""
        crossing_s = size / self.bytes_per_s
        self.free_s = max(now, self.free_s) + crossing_s
        self.messages += 1
        self.bytes += size
        self.busy_s += crossing_s
        return self.free_s + self.latency_s


@dataclass(slots=True)
class PacedQueue(Generic[Item]):
    """Messages under way on any number of lanes, none of which holds up another."""

    _under_way: list[tuple[float, int, Item]] = field(default_factory=list)
    _taken: int = 0

    def put(self, lane: Lane, size: int, item: Item, now: float) -> None:
        """Send ``item`` over ``lane``."""
        heapq.heappush(self._under_way, (lane.carry(size, now), self._taken, item))
        self._taken += 1

    def arrived(self, now: float) -> list[Item]:
        """Take what has arrived by ``now``; of one lane in the order it was sent."""
        items = []
        while self._under_way and self._under_way[0][0] <= now:
            items.append(heapq.heappop(self._under_way)[2])
        return items

    def next_s(self) -> float | None:
        """When the next one arrives; ``None`` when nothing is under way."""
        return self._under_way[0][0] if self._under_way else None
