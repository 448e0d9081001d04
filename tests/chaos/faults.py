"""Messages between nodes that are late, come twice, out of order or never, while a file says so.

A network below TCP can't do that to ZeroMQ's messages, which TCP repairs; a connection that breaks with some under way
can, and so could another transport. What is disturbed is a message of ZeroMQ: all that one node tells another at once.
``python -m tests.chaos.faults …`` is ``helix-df …`` with such endpoints.
"""

from __future__ import annotations

import heapq
import itertools
import os
import random
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helix_df.runtime.coordinator import shell
from helix_df.runtime.wire import transport
from helix_df.runtime.wire.framing import Frames
from helix_df.runtime.wire.transport import Endpoint

VARIABLE = "HELIX_DF_CHAOS_FAULTS"
"""The kind of faults, the seed, and the file that says when, one after another with colons."""


@dataclass(frozen=True, slots=True)
class Faults:
    """The share of messages that are held back for so many seconds, from the least to the most, and of those that come
    twice or never. ``in_order``: whatever is sent after one that is late is as late."""

    late: float = 0.0
    least_s: float = 0.0
    most_s: float = 0.0
    in_order: bool = False
    twice: float = 0.0
    never: float = 0.0


KINDS = {
    "delayed": Faults(late=1.0, least_s=0.05, most_s=0.2, in_order=True),
    "duplicated": Faults(twice=0.1, most_s=0.1),
    "reordered": Faults(late=0.1, most_s=0.1),
    "dropped": Faults(never=0.005),
}


class FaultyEndpoint:
    """An endpoint that doesn't send all as it should. A thread of its own sends what is late."""

    def __init__(self, endpoint: Endpoint, faults: Faults, seed: int, switch: Path) -> None:
        self.address = endpoint.address
        self._endpoint = endpoint
        self._faults = faults
        self._chance = random.Random(seed)
        self._switch = switch
        self._last_s: dict[tuple[str, bool], float] = {}
        self._late: list[tuple[float, int, str, list[bytes], bool]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._sender = threading.Thread(target=self._send_late, name="late", daemon=True)
        self._sender.start()

    @property
    def refused_connections(self) -> int:
        return self._endpoint.refused_connections

    def send(self, address: str, frames: Frames, *, bulk: bool = False) -> None:
        with self._changed:
            waits = self._last_s.get((address, bulk), 0.0) if self._faults.in_order else 0.0
            if not self._switch.exists():
                if waits > time.monotonic():
                    self._hold(address, frames, bulk, waits)
                else:
                    self._endpoint.send(address, frames, bulk=bulk)
                return
            faults, chance = self._faults, self._chance
            if chance.random() < faults.never:
                return
            late_s = chance.uniform(faults.least_s, faults.most_s)
            if chance.random() < faults.late:
                self._hold(address, frames, bulk, max(waits, time.monotonic() + late_s))
                return
            if chance.random() < faults.twice:
                self._hold(address, frames, bulk, time.monotonic() + late_s)
            self._endpoint.send(address, frames, bulk=bulk)

    def _hold(self, address: str, frames: Frames, bulk: bool, due_s: float) -> None:
        self._last_s[address, bulk] = due_s
        own = [bytes(frame) for frame in frames]  # the sender may use its buffers again
        heapq.heappush(self._late, (due_s, next(self._numbers), address, own, bulk))
        self._changed.notify()

    def _send_late(self) -> None:
        with self._changed:
            while not self._closed:
                while self._late and self._late[0][0] <= time.monotonic():
                    _, _, address, frames, bulk = heapq.heappop(self._late)
                    self._endpoint.send(address, list(frames), bulk=bulk)
                self._changed.wait(self._late[0][0] - time.monotonic() if self._late else None)

    def watch(self, patience_s: float) -> None:
        self._endpoint.watch(patience_s)

    def unreachable(self) -> frozenset[str]:
        return self._endpoint.unreachable()

    def receive(self, timeout_s: float | None) -> list[Frames]:
        return self._endpoint.receive(timeout_s)

    def wake(self) -> None:
        self._endpoint.wake()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._sender.join()
        self._endpoint.close()


@contextmanager
def faulty(kind: str, seed: int, switch: Path) -> Iterator[None]:
    """Let endpoints that this process opens, and those of workers that it starts, be faulty while ``switch`` exists."""
    before, opened = os.environ.get(VARIABLE), transport.listen
    os.environ[VARIABLE] = f"{kind}:{seed}:{switch}"
    _open_faulty_ones()
    try:
        yield
    finally:
        _listen_by(opened)
        if before is None:
            del os.environ[VARIABLE]


def _open_faulty_ones() -> None:
    kind, seed, switch = os.environ[VARIABLE].split(":", 2)
    real = transport.listen

    def listen(address: str, *arguments: Any, **named: Any) -> Endpoint:
        own_seed = int(seed) + zlib.crc32(address.encode())
        return FaultyEndpoint(real(address, *arguments, **named), KINDS[kind], own_seed, Path(switch))

    _listen_by(listen)


def _listen_by(listen: Callable[..., Endpoint]) -> None:
    """Let workers and coordinators of this process open their endpoints so."""
    transport.listen = listen
    shell.listen = listen  # type: ignore[attr-defined]


if __name__ == "__main__":
    from helix_df.cli.main import main

    _open_faulty_ones()
    main()
