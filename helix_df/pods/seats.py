"""Which pod of which set runs which worker: pure, and written down where the pods read it.

A seat is a pod by its set and number. Workers take the lowest free one of their set, so that those of a plan sit in its
order; what a seat's pod is to run are the arguments of ``helix-df``, in a file that bears the pod's name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

_ONCE = "--give-way"
"""What a worker is told for the time that it loads: it is the same worker without it."""


@dataclass(frozen=True, slots=True, order=True)
class Seat:
    """A pod of a set."""

    of: str
    number: int

    @property
    def pod(self) -> str:
        """The pod's name."""
        return f"{self.of}-{self.number}"


class Seats:
    """The seats of a job's workers, and the arguments of each."""

    def __init__(self) -> None:
        self._seats: dict[str, Seat] = {}
        self._arguments: dict[Seat, tuple[str, ...]] = {}

    @classmethod
    def read(cls, files: Mapping[str, str]) -> Seats:
        """Those that a coordinator before this one wrote down; what names no worker is left out."""
        seats = cls()
        for pod, text in files.items():
            of, _, number = pod.rpartition("-")
            words = text.split()
            if of and number.isdigit() and "--node" in words[:-1]:
                seats._put(words[words.index("--node") + 1], Seat(of, int(number)), tuple(words))
        return seats

    def take(self, worker: str, of: str, arguments: Sequence[str]) -> Seat:
        """The seat of a worker in a set: its own if it has one there, else the first that is free."""
        seat = self._seats.get(worker)
        if seat is None or seat.of != of:
            self.leave(worker)
            seat = self._free(of)
        there = self._arguments.get(seat)
        wanted = tuple(arguments)
        self._put(worker, seat, wanted if there is None or not _same(there, wanted) else there)
        return seat

    def leave(self, worker: str) -> None:
        """A worker needs no seat any more."""
        seat = self._seats.pop(worker, None)
        if seat is not None:
            del self._arguments[seat]

    def keep(self, workers: Collection[str]) -> None:
        """Nobody else has a seat."""
        for worker in [one for one in self._seats if one not in workers]:
            self.leave(worker)

    def pod_of(self, worker: str) -> str | None:
        """The name of a worker's pod, if it has one."""
        seat = self._seats.get(worker)
        return None if seat is None else seat.pod

    @property
    def sets(self) -> dict[str, int]:
        """How many pods each set needs: as many as seats up to the last one that is taken."""
        found: dict[str, int] = {}
        for seat in self._arguments:
            found[seat.of] = max(found.get(seat.of, 0), seat.number + 1)
        return found

    @property
    def files(self) -> dict[str, str]:
        """What is written down: by a pod's name, the arguments of ``helix-df`` there."""
        return {seat.pod: " ".join(words) + "\n" for seat, words in sorted(self._arguments.items())}

    def _put(self, worker: str, seat: Seat, arguments: tuple[str, ...]) -> None:
        self._seats[worker] = seat
        self._arguments[seat] = arguments

    def _free(self, of: str) -> Seat:
        number = 0
        while Seat(of, number) in self._arguments:
            number += 1
        return Seat(of, number)


def _same(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    return [word for word in one if word != _ONCE] == [word for word in other if word != _ONCE]
