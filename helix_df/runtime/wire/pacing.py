"""When messages arrive over emulated links. Pure: sizes and the time in, the messages that are there by now out.

A link is a serial resource: its messages cross one after another at its bandwidth, and each is there one latency after
its last byte has left, which is how the simulator sees a link, too. Bulk waits until the link is free, and is passed by
what comes meanwhile. Doesn't know sockets, threads or clocks.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from helix_df.rules.sending import passes

Item = TypeVar("Item")


@dataclass(slots=True, eq=False)
class Lane:
    """One direction of a link, and what it has carried: ``busy_s`` is the time that took."""

    bytes_per_s: float
    latency_s: float
    free_s: float = -math.inf
    messages: int = 0
    bytes: int = 0
    busy_s: float = 0.0

    def become(self, bytes_per_s: float, latency_s: float) -> None:
        """Carry what comes as another link does; nothing overtakes what is under way."""
        self.free_s = max(self.free_s, self.free_s + self.latency_s - latency_s)
        self.bytes_per_s, self.latency_s = bytes_per_s, latency_s

    def carry(self, size: int, now: float) -> float:
        """Take a message of ``size`` bytes at ``now``, and say when it arrives. ``now`` never goes back."""
        crossing_s = size / self.bytes_per_s
        self.free_s = max(now, self.free_s) + crossing_s
        self.messages += 1
        self.bytes += size
        self.busy_s += crossing_s
        return self.free_s + self.latency_s


@dataclass(slots=True)
class _Waiting(Generic[Item]):
    """Bulk that waits for a lane, and the bytes that have passed the first of it."""

    items: deque[tuple[int, Item]] = field(default_factory=deque)
    passed_bytes: int = 0


@dataclass(slots=True)
class PacedQueue(Generic[Item]):
    """Messages under way on any number of lanes, none of which holds up another."""

    _under_way: list[tuple[float, int, Item]] = field(default_factory=list)
    _waiting: dict[Lane, _Waiting[Item]] = field(default_factory=dict)
    _taken: int = 0

    def put(self, lane: Lane, size: int, item: Item, now: float, *, bulk: bool = False) -> None:
        """Send ``item`` over ``lane``; ``now`` never goes back."""
        self.let_go(lane, now)
        waiting = self._waiting.setdefault(lane, _Waiting())
        if bulk and (waiting.items or lane.free_s > now):
            waiting.items.append((size, item))
            return
        if waiting.items and not passes(waiting.passed_bytes, waiting.items[0][0]):
            self._carry_first(lane, waiting)
        if waiting.items:
            waiting.passed_bytes += size
        self._carry(lane, size, item, now)

    def let_go(self, lane: Lane, now: float) -> bool:
        """Put on the lane what waits and could begin to cross by ``now``; whether anything waits still."""
        waiting = self._waiting.get(lane)
        while waiting and waiting.items and lane.free_s <= now:
            self._carry_first(lane, waiting)
        return bool(waiting and waiting.items)

    def arrived(self, now: float) -> list[Item]:
        """Take what has arrived by ``now``; of one lane in the order it crossed."""
        for lane in self._waiting:
            self.let_go(lane, now)
        items = []
        while self._under_way and self._under_way[0][0] <= now:
            items.append(heapq.heappop(self._under_way)[2])
        return items

    def next_s(self) -> float | None:
        """When the next one arrives, if nothing else is sent; ``None`` when nothing is under way."""
        due = [
            lane.free_s + waiting.items[0][0] / lane.bytes_per_s + lane.latency_s
            for lane, waiting in self._waiting.items()
            if waiting.items
        ]
        if self._under_way:
            due.append(self._under_way[0][0])
        return min(due, default=None)

    def _carry_first(self, lane: Lane, waiting: _Waiting[Item]) -> None:
        size, item = waiting.items.popleft()
        waiting.passed_bytes = 0
        self._carry(lane, size, item, lane.free_s)

    def _carry(self, lane: Lane, size: int, item: Item, now: float) -> None:
        heapq.heappush(self._under_way, (lane.carry(size, now), self._taken, item))
        self._taken += 1
