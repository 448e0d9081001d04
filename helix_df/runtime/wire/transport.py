"""How frames get from one process to another: the only file that imports zmq.

An endpoint has one address that anyone may send to, and receives everything in one queue. Order is kept between any
two endpoints, of bulk and of all else by itself: what is not bulk doesn't wait behind it. Nothing is kept for an
endpoint that is gone. Transports are found by the scheme of an address.

Anybody can connect, so what waits for a receiver is bounded: a frame has at most so many bytes, a connection at most so
many messages that wait, and a receiver takes so many at a time. More makes its sender wait, and nobody else.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import OrderedDict
from typing import Any, Protocol

import zmq

from helix_df.errors import DeploymentError, ProtocolError
from helix_df.runtime.wire.messages import Frames

log = logging.getLogger(__name__)


class Endpoint(Protocol):
    """One end of the job's network. Any thread may send; only one receives."""

    address: str

    def send(self, address: str, frames: Frames, *, bulk: bool = False) -> None:
        """Queue frames for ``address``; never blocks, and drops them when nobody is there. ``bulk`` may be passed."""
        ...

    def receive(self, timeout_s: float | None) -> list[Frames]:
        """What waits, a few hundred at most; else wait up to ``timeout_s`` seconds for the first (None = for ever)."""
        ...

    def wake(self) -> None:
        """Make a waiting ``receive`` return, from any thread."""
        ...

    def close(self) -> None:
        """Give the address back. Call it from the receiving thread, or once that has ended."""
        ...


SEND_LIMIT = 10_000
"""Messages that may wait for one peer; past that the peer is as good as gone."""

RECEIVE_LIMIT = 1_000
"""Messages of one connection that may wait here; past that its sender waits."""

TAKEN_AT_ONCE = 256
"""Messages that a receiver takes before it does something else."""

MOST_PEERS = 1_000
"""Connections that are kept to send over; past that the one goes that was used least recently."""

IDLE_PEER_S = 60.0
"""A connection that nothing was sent over for so long makes room for the next: each takes descriptors."""

MOST_FRAME_BYTES = 2**28
"""Of a frame, where nobody says less; a larger one ends its connection before it is read."""

_RECONNECT_MOST_MS = 1_000


class ZmqEndpoint:
    """PULL at the own address, one PUSH a peer, another for bulk; tensors leave and arrive without a copy in Python.

    Sockets and the kernel hold megabytes of what was sent, which nothing can pass. Bulk has a connection of its own
    instead of a queue here: two connections share a link, so that neither kind starves.
    """

    def __init__(self, address: str, most_bytes: int = MOST_FRAME_BYTES) -> None:
        self._context = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, 2 * MOST_PEERS)
        self._inbox = self._context.socket(zmq.PULL)
        self._inbox.setsockopt(zmq.RCVHWM, RECEIVE_LIMIT)
        self._inbox.setsockopt(zmq.MAXMSGSIZE, most_bytes)
        self._inbox.setsockopt(zmq.IPV6, _is_ipv6(address))
        try:
            self._inbox.bind(address)
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise DeploymentError("can't listen there", where=address, found=str(error)) from error
        self.address = self._inbox.getsockopt_string(zmq.LAST_ENDPOINT)
        waker = f"inproc://wake-{id(self)}"
        self._wakeable = self._context.socket(zmq.PULL)
        self._wakeable.bind(waker)
        self._waker = self._context.socket(zmq.PUSH)
        self._waker.connect(waker)
        self._lock = threading.Lock()  # zmq sockets may change threads, but only behind a fence
        self._poller = zmq.Poller()
        self._poller.register(self._inbox, zmq.POLLIN)
        self._poller.register(self._wakeable, zmq.POLLIN)
        self._peers: OrderedDict[tuple[str, bool], zmq.Socket[bytes]] = OrderedDict()
        self._used_s: dict[tuple[str, bool], float] = {}
        self._unreachable = 0

    def send(self, address: str, frames: Frames, *, bulk: bool = False) -> None:
        """See ``Endpoint``."""
        with self._lock:
            if self._context.closed:
                return
            peer = self._peers.get((address, bulk)) or self._connect(address, bulk)
            if peer is None:
                return
            self._peers.move_to_end((address, bulk))
            self._used_s[address, bulk] = time.monotonic()
            try:
                peer.send_multipart(frames, flags=zmq.NOBLOCK, copy=False)
            except zmq.Again:
                peer.close(linger=0)
                del self._peers[address, bulk], self._used_s[address, bulk]

    def _drop_idle(self) -> None:
        """Close what was used least recently, as far as it is idle or there is too much of it."""
        idle_s = time.monotonic() - IDLE_PEER_S
        while self._peers:
            name = next(iter(self._peers))
            if len(self._peers) < MOST_PEERS and self._used_s[name] > idle_s:
                return
            self._peers.pop(name).close(linger=500)
            del self._used_s[name]

    def _connect(self, address: str, bulk: bool) -> zmq.Socket[bytes] | None:
        """A connection to a peer; none where nobody can be: an address may be no address, and descriptors run out."""
        self._drop_idle()
        peer: zmq.Socket[bytes] | None = None
        try:
            peer = self._context.socket(zmq.PUSH)
            peer.setsockopt(zmq.SNDHWM, SEND_LIMIT)
            peer.setsockopt(zmq.IPV6, _is_ipv6(address))
            peer.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MOST_MS)
            peer.connect(address)
        except zmq.ZMQError as error:
            if peer is not None:
                peer.close(linger=0)
            self._unreachable += 1
            if self._unreachable & (self._unreachable - 1) == 0:  # ever more rarely, so that it fills no log
                log.warning("no connection to %.100s: %s (the %d. time)", address, error, self._unreachable)
            return None
        self._peers[address, bulk] = peer
        return peer

    def receive(self, timeout_s: float | None) -> list[Frames]:
        """See ``Endpoint``."""
        self._poller.poll(None if timeout_s is None else max(0, int(timeout_s * 1000)))
        received: list[Frames] = []
        try:
            while len(received) < TAKEN_AT_ONCE:
                frames = self._inbox.recv_multipart(flags=zmq.NOBLOCK, copy=False)
                received.append([frame.buffer for frame in frames])
        except zmq.Again:
            pass
        try:
            while True:
                self._wakeable.recv(flags=zmq.NOBLOCK)
        except zmq.Again:
            return received

    def wake(self) -> None:
        """See ``Endpoint``."""
        with self._lock:
            if not self._waker.closed:
                self._waker.send(b"", flags=zmq.NOBLOCK)

    def close(self) -> None:
        """See ``Endpoint``. Messages already queued get half a second to leave."""
        with self._lock:
            self._context.destroy(linger=500)


class LocalEndpoint:
    """Queues inside one process, for embedding and tests: no socket, no thread, no port."""

    _network: dict[str, LocalEndpoint] = {}  # noqa: RUF012 - the process-wide "network" is meant to be shared
    _lock = threading.Lock()

    def __init__(self, address: str, most_bytes: int = MOST_FRAME_BYTES) -> None:
        with self._lock:
            if address.endswith("*"):
                address = f"{address[:-1]}{id(self):x}"
            if address in self._network:
                raise DeploymentError("somebody in this process listens there already", where=address)
            self.address = address
            self._network[address] = self
        self._queue: queue.SimpleQueue[Frames | None] = queue.SimpleQueue()

    def send(self, address: str, frames: Frames, *, bulk: bool = False) -> None:  # nothing waits here
        """See ``Endpoint``."""
        peer = self._network.get(address)
        if peer is not None:
            peer._queue.put([_own(frame) for frame in frames])

    def receive(self, timeout_s: float | None) -> list[Frames]:
        """See ``Endpoint``."""
        received: list[Frames] = []
        try:
            first = self._queue.get(timeout=timeout_s)
            while len(received) < TAKEN_AT_ONCE - 1:
                if first is not None:
                    received.append(first)
                first = self._queue.get_nowait()
            return [*received, *([] if first is None else [first])]
        except queue.Empty:
            return received

    def wake(self) -> None:
        """See ``Endpoint``."""
        self._queue.put(None)

    def close(self) -> None:
        """See ``Endpoint``."""
        with self._lock:
            self._network.pop(self.address, None)


def _is_ipv6(address: str) -> bool:
    # Not for all: with it, an IPv4 address that is listened on becomes one that IPv4 peers can't use.
    return "[" in address


def _own(frame: Any) -> Any:
    # A sender may reuse or donate its buffer once it has sent, which a socket's copy into the kernel makes harmless.
    return bytes(frame)


_SCHEMES: dict[str, type[ZmqEndpoint] | type[LocalEndpoint]] = {
    "tcp": ZmqEndpoint,
    "ipc": ZmqEndpoint,
    "local": LocalEndpoint,
}


def listen(address: str, most_bytes: int = MOST_FRAME_BYTES) -> Endpoint:
    """Open an endpoint at ``scheme://…``; a ``*`` for the port (or name) takes any free one.

    No frame of more than ``most_bytes`` is read.

    Raises:
        ProtocolError: for an unknown scheme.
        DeploymentError: when the address is taken or isn't of this host.
    """
    scheme = address.partition("://")[0]
    if scheme not in _SCHEMES:
        raise ProtocolError("an unknown transport", found=address, expected=", ".join(f"{s}://…" for s in _SCHEMES))
    return _SCHEMES[scheme](address, most_bytes)
