"""Whose request is next, and who may join the queue: in turn by API key, within one by rank (``waiting_order``).

Start-time fair queuing (Goyal, Vin and Cheng, SIGCOMM 1996) with equal weights: each key has a virtual time, which goes
on by what its requests cost as they are started, and whoever is furthest behind is next. The time of a key that
comes, or comes back, begins where the queue is, so nobody saves up turns. Names, keys and costs in; doesn't know
requests, pipelines or room.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from helix_df.rules.waiting_order import GOES_BEFORE_ALL


def key_may_wait(own: int, waiting: int, max_queue: int) -> bool:
    """Whether another request of a key may join a queue in which ``own`` of all ``waiting`` ones are that key's.

    As many as there are places left, and no more: alone a key fills half of the queue, two fill a third each, and there
    always is a place for a key that has none. Source: dynamic thresholds, Choudhury and Hahne (IEEE/ACM ToN, 1998).
    """
    return own < max(1, max_queue - waiting)


@dataclass(slots=True)
class _PlaceInLine:
    """One who waits: what it costs, 0 if it has been started before, and its place among all, the lowest first.

    The place is a rank, and of equal ranks a number.
    """

    name: str
    cost: float
    place: tuple[float, int]


@dataclass(slots=True)
class FairQueue:
    """Names that wait, each of one key (or of nobody's, which is a key like others).

    With one key it is a queue by rank: ``join`` puts a name behind all whose rank isn't higher, so with equal ranks at
    the end, and ``join_first`` is the head. Those who have been started before go before those who haven't, whatever
    their keys are: they have had their turn, and no more of them can be there than have run at once.
    """

    _lines: dict[str | None, list[_PlaceInLine]] = field(default_factory=dict)
    _time: float = 0.0
    _times: dict[str | None, float] = field(default_factory=dict)
    _keys: dict[str, str | None] = field(default_factory=dict)
    _last: int = 0
    _first: int = 0

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[str]:
        """All names by place, which is their order if all have the same key."""
        entries = sorted((entry.place, entry.name) for line in self._lines.values() for entry in line)
        return (name for _, name in entries)

    def count(self, key: str | None) -> int:
        """How many of a key wait."""
        return len(self._lines.get(key, ()))

    def join(self, name: str, key: str | None, cost: float, rank: float = 0.0) -> None:
        """Wait behind those of the key whose rank is as low or lower; ``cost`` is above 0."""
        self._last += 1
        insort(self._line(key), _PlaceInLine(name, cost, (rank, self._last)), key=_place)
        self._keys[name] = key

    def join_first(self, name: str, key: str | None, cost: float = 0.0) -> None:
        """Wait before all others of the key; at no cost for who has been started before."""
        self._first -= 1
        self._line(key).insert(0, _PlaceInLine(name, cost, (GOES_BEFORE_ALL, self._first)))
        self._keys[name] = key

    def head(self) -> str:
        """Who is next; somebody must wait."""
        return self._lines[self._next_key()][0].name

    def take(self) -> str:
        """Take out who is next: its key pays."""
        key = self._next_key()
        entry = self._lines[key].pop(0)
        if entry.cost:
            self._time = self._times[key]
            self._times[key] += entry.cost
        self._left(key, entry.name)
        return entry.name

    def remove(self, names: Collection[str]) -> None:
        """Take out those of these names who wait, at no cost."""
        gone = {name for name in names if name in self._keys}
        for key in {self._keys[name] for name in gone}:
            line = self._lines[key]
            self._lines[key] = [entry for entry in line if entry.name not in gone]
        for name in gone:
            self._left(self._keys[name], name)

    def _line(self, key: str | None) -> list[_PlaceInLine]:
        if key not in self._lines:
            self._lines[key] = []
            self._times[key] = max(self._times.get(key, 0.0), self._time)
        return self._lines[key]

    def _left(self, key: str | None, name: str) -> None:
        del self._keys[name]
        if self._lines.get(key):
            return
        self._lines.pop(key, None)
        if not self._lines:  # whoever comes now begins as all others do
            self._time = 0.0
            self._times.clear()

    def _next_key(self) -> str | None:
        if len(self._lines) == 1:
            return next(iter(self._lines))
        return min(self._lines, key=self._rank)

    def _rank(self, key: str | None) -> tuple[bool, float, tuple[float, int]]:
        entry = self._lines[key][0]
        return (entry.cost > 0, self._times[key] if entry.cost else 0.0, entry.place)


def _place(entry: _PlaceInLine) -> tuple[float, int]:
    return entry.place
