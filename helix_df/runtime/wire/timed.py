"""When frames arrive, for a receiver that looks for them only now and then: a worker computes in between.

A thread receives in its place. Without one, what waits for a worker would look as if its link were slow.
"""

from __future__ import annotations

import queue
import threading
import time
from typing import Any

from helix_df.runtime.wire.framing import Frames
from helix_df.runtime.wire.transport import TAKEN_AT_ONCE, Endpoint

_MOST_WAITING = 2 * TAKEN_AT_ONCE
"""Of what was received and isn't taken; more waits in its connections, and so in its senders."""

_LOOK_S = 0.5


class TimedFrames(list[Any]):
    """Frames with when they arrived, in seconds of ``time.monotonic``."""

    __slots__ = ("arrived_s",)

    def __init__(self, frames: Frames, arrived_s: float) -> None:
        super().__init__(frames)
        self.arrived_s = arrived_s


class TimedEndpoint:
    """An endpoint that notes when its frames arrive. Nobody else may receive from the one inside."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.address = endpoint.address
        self._endpoint = endpoint
        self._arrived: queue.Queue[TimedFrames | None] = queue.Queue(_MOST_WAITING)
        self._closed = threading.Event()
        self._receiver = threading.Thread(target=self._receive, name="inbox", daemon=True)
        self._receiver.start()

    @property
    def refused_connections(self) -> int:
        """See ``Endpoint``."""
        return self._endpoint.refused_connections

    def send(self, address: str, frames: Frames, *, bulk: bool = False) -> None:
        """See ``Endpoint``."""
        self._endpoint.send(address, frames, bulk=bulk)

    def watch(self, patience_s: float) -> None:
        """See ``Endpoint``."""
        self._endpoint.watch(patience_s)

    def unreachable(self) -> frozenset[str]:
        """See ``Endpoint``."""
        return self._endpoint.unreachable()

    def receive(self, timeout_s: float | None) -> list[Frames]:
        """See ``Endpoint``; what it gives are ``TimedFrames``."""
        received: list[Frames] = []
        try:
            # A timeout of 0 is no wait: that of a queue would be an error.
            first = self._arrived.get(block=timeout_s != 0, timeout=timeout_s or None)
            while len(received) < TAKEN_AT_ONCE - 1:
                if first is not None:
                    received.append(first)
                first = self._arrived.get_nowait()
            return received if first is None else [*received, first]
        except queue.Empty:
            return received

    def wake(self) -> None:
        """See ``Endpoint``."""
        self._endpoint.wake()

    def close(self) -> None:
        """See ``Endpoint``."""
        self._closed.set()
        self._endpoint.wake()
        self._receiver.join()
        self._endpoint.close()

    def _receive(self) -> None:
        while not self._closed.is_set():
            arrived = self._endpoint.receive(None)
            now = time.monotonic()
            for frames in arrived:
                self._put(TimedFrames(frames, now))
            if not arrived:
                self._put(None)  # somebody was to be woken

    def _put(self, frames: TimedFrames | None) -> None:
        while not self._closed.is_set():
            try:
                self._arrived.put(frames, timeout=_LOOK_S)
                return
            except queue.Full:
                pass  # the receiver computes
