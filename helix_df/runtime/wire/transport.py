"""How frames get from one process to another: the only file that imports zmq.

An endpoint has one address that anyone may send to, and receives everything in one queue. Order is kept between any
two endpoints, of bulk and of all else by itself: what is not bulk doesn't wait behind it. Nothing is kept for an
endpoint that is gone. Transports are found by the scheme of an address.

Anybody can connect, so what waits for a receiver is bounded: a frame has at most so many bytes, a connection at most so
many messages that wait, and a receiver takes so many at a time. More makes its sender wait, and nobody else.

At ``curve://`` connections are encrypted by CurveZMQ, with fresh keys for each: its receiver is who has the secret half
of the key in its address, its sender who has the job's secret. Others don't get as far as a first message.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import queue
import socket
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final, Protocol

import zmq
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from helix_df.errors import DeploymentError, ProtocolError
from helix_df.runtime.wire.framing import Frames
from helix_df.runtime.wire.keys import (
    ENCRYPTED,
    PLAIN,
    EndpointKeys,
    KeyPair,
    is_public_key,
    same_endpoint,
    split_endpoint,
)
from helix_df.spec.addresses import split_address

log = logging.getLogger(__name__)


class Endpoint(Protocol):
    """One end of the job's network. Any thread may send; only one receives."""

    address: str

    @property
    def refused_connections(self) -> int:
        """How many were ended since their other side doesn't have the job's keys."""
        ...

    def send(self, address: str, frames: Frames, *, bulk: bool = False) -> None:
        """Queue frames for ``address``; never blocks, and drops them when nobody is there. ``bulk`` may be passed."""
        ...

    def watch(self, patience_s: float) -> None:
        """From now on, notice when what is sent isn't acknowledged by the system of its receiver for so long."""
        ...

    def unreachable(self) -> frozenset[str]:
        """Addresses that what is sent doesn't reach, or for a moment didn't since this was asked last."""
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
"""Connections that are kept to send over, where nobody says more; past that the one goes that was used least recently.
"""

BACKLOG = 4_096
"""Connections that wait to be accepted: all workers of a large job may come at once."""

IDLE_PEER_S = 60.0
"""A connection that nothing was sent over for so long makes room for the next: each takes descriptors."""

MOST_FRAME_BYTES = 2**28
"""Of a frame, where nobody says less; a larger one ends its connection before it is read."""

_RECONNECT_MOST_MS = 1_000
_CONNECT_MOST_MS = 2_000
"""The system would try a connection over a cut link ever more rarely; this begins it anew instead."""

_CURVE_BYTES = 33
"""By which a frame is longer once it is encrypted."""

_CLIENT, _SHARED = b"helix-df client", b"helix-df listener"
"""What the pairs are for that follow from a job's secret."""


def can_encrypt() -> bool:
    """Whether this machine's ZeroMQ was built with CurveZMQ."""
    return bool(zmq.has("curve"))


def new_key_pair() -> KeyPair:
    """A fresh pair.

    Raises:
        DeploymentError: when this machine's ZeroMQ can't encrypt.
    """
    _require_curve()
    public, secret = zmq.curve_keypair()
    return KeyPair(z85.decode(public).hex(), z85.decode(secret).hex())


def endpoint_keys(own: KeyPair | None, token: str) -> EndpointKeys:
    """The keys of an endpoint of the job whose secret is ``token``; with a fresh pair of its own if ``own`` is None.

    Raises:
        DeploymentError: when this machine's ZeroMQ can't encrypt.
    """
    return EndpointKeys(own or new_key_pair(), _derived(token, _CLIENT))


def shared_keys(token: str) -> EndpointKeys:
    """The keys of an endpoint whose own pair follows from a secret, too, for sides that share nothing else.

    Raises:
        DeploymentError: when this machine's ZeroMQ can't encrypt.
    """
    return EndpointKeys(_derived(token, _SHARED), _derived(token, _CLIENT))


def _derived(token: str, purpose: bytes) -> KeyPair:
    """A pair that follows from a secret. It may be one that a person made up, so guessing costs memory and time."""
    _require_curve()
    secret = hashlib.scrypt(token.encode(), salt=purpose, n=2**13, r=8, p=1, dklen=32)
    return KeyPair(z85.decode(zmq.curve_public(z85.encode(secret))).hex(), secret.hex())


def _require_curve() -> None:
    if not can_encrypt():
        raise DeploymentError(
            "ZeroMQ here was built without encryption",
            found=f"libzmq {zmq.zmq_version()}, pyzmq {zmq.__version__}",
            hint="pyzmq from its wheels has it; or `runtime: {encryption: never, trust_network: true}` in the job",
        )


def _key(text: str) -> bytes:
    return z85.encode(bytes.fromhex(text))


def who_answers(address: str, timeout_s: float = 2.0) -> str:
    """In words, whether anybody listens at an endpoint's address: all that can be told of who doesn't answer."""
    try:
        host, port = split_address(split_endpoint(address)[2])
        socket.create_connection((host.strip("[]"), int(port or 0)), timeout_s).close()
    except (OSError, ValueError) as error:
        return f"it can't be reached ({error})"
    return "somebody listens there: a coordinator of another job, or with other keys, or another version of helix-df"


@dataclass(slots=True)
class _WatchedPeer:
    """A connection that is watched: whether it is there, since when (s) it is or isn't, and whether it broke lately."""

    events: zmq.Socket[bytes]
    since_s: float
    is_up: bool = False
    broke: bool = False

    def look(self, now: float, patience_s: float) -> bool:
        """Whether what is sent over it arrives, by what ZeroMQ has told since this was last asked."""
        try:
            while True:
                event = parse_monitor_message(self.events.recv_multipart(flags=zmq.NOBLOCK))["event"]
                self.is_up, self.since_s = event == zmq.EVENT_HANDSHAKE_SUCCEEDED, now
                self.broke = self.broke or not self.is_up
        except zmq.Again:
            pass
        arrives = not self.broke and (self.is_up or now - self.since_s < patience_s)
        # A moment is told once; one that is never there again stays as it is.
        self.broke = self.broke and not self.is_up
        return arrives


class _Doorkeeper:
    """Lets those connect to an encrypted socket who have the job's client key, and counts others.

    libzmq asks it for each connection whose other side knows the socket's public key (ZeroMQ RFC 27), and tells it of
    those that fail before.
    """

    def __init__(self, context: zmq.Context[Any], inbox: zmq.Socket[bytes], client: KeyPair) -> None:
        self.refused = 0
        self._client = bytes.fromhex(client.public)
        # Of a shadow, so that nobody closes them under the thread that uses them: it does so once the context ends.
        shadow: zmq.Context[Any] = zmq.Context.shadow(context.underlying)
        self._asked = shadow.socket(zmq.REP)
        self._asked.bind("inproc://zeromq.zap.01")
        failures = f"inproc://failures-{id(self)}"
        inbox.monitor(failures, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
        self._failed = shadow.socket(zmq.PAIR)
        self._failed.connect(failures)
        threading.Thread(target=self._run, name="doorkeeper", daemon=True).start()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._asked, zmq.POLLIN)
        poller.register(self._failed, zmq.POLLIN)
        try:
            while True:
                ready = dict(poller.poll())
                if self._asked in ready:
                    self._answer(self._asked.recv_multipart())
                if self._failed in ready:
                    parse_monitor_message(self._failed.recv_multipart())
                    self._count("an address that isn't told")
        except zmq.ZMQError:  # the context ends
            self._asked.close(linger=0)
            self._failed.close(linger=0)

    def _answer(self, question: list[bytes]) -> None:
        version, number, _domain, address, _identity, mechanism, *credentials = question
        known = mechanism == b"CURVE" and hmac.compare_digest(credentials[0], self._client)
        if not known:
            self._count(address.decode("ascii", "replace"))
        self._asked.send_multipart([version, number, b"200" if known else b"400", b"", b"", b""])

    def _count(self, address: str) -> None:
        self.refused += 1
        if self.refused & (self.refused - 1) == 0:  # ever more rarely, so that it fills no log
            log.warning(
                "refused a connection from %.60s: without this job's keys (the %d. time)", address, self.refused
            )


class ZmqEndpoint:
    """PULL at the own address, one PUSH a peer, another for bulk; tensors leave and arrive without a copy in Python.

    Sockets and the kernel hold megabytes of what was sent, which nothing can pass. Bulk has a connection of its own
    instead of a queue here: two connections share a link, so that neither kind starves.
    """

    def __init__(
        self,
        address: str,
        most_bytes: int = MOST_FRAME_BYTES,
        keys: EndpointKeys | None = None,
        most_peers: int = MOST_PEERS,
    ) -> None:
        self._keys: Final = keys
        self._most_peers: Final = most_peers
        self._context = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, min(4 * most_peers, self._context.get(zmq.SOCKET_LIMIT)))
        self._inbox = self._context.socket(zmq.PULL)
        self._inbox.setsockopt(zmq.RCVHWM, RECEIVE_LIMIT)
        self._inbox.setsockopt(zmq.BACKLOG, BACKLOG)
        self._inbox.setsockopt(zmq.MAXMSGSIZE, most_bytes + (0 if keys is None else _CURVE_BYTES))
        self._inbox.setsockopt(zmq.IPV6, _is_ipv6(address))
        self._doorkeeper = None if keys is None else self._guard(keys)
        try:
            self._inbox.bind(address if keys is None else f"{PLAIN}://{split_endpoint(address)[2]}")
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise DeploymentError("can't listen there", where=address, found=str(error)) from error
        place = self._inbox.getsockopt_string(zmq.LAST_ENDPOINT)
        self.address = place if keys is None else f"{ENCRYPTED}://{keys.own.public}@{split_endpoint(place)[2]}"
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
        self._patience_s: float | None = None
        self._links: dict[tuple[str, bool], _WatchedPeer] = {}
        self._failures = 0

    @property
    def refused_connections(self) -> int:
        """See ``Endpoint``."""
        return 0 if self._doorkeeper is None else self._doorkeeper.refused

    def _guard(self, keys: EndpointKeys) -> _Doorkeeper:
        self._inbox.setsockopt(zmq.CURVE_SERVER, True)
        self._inbox.setsockopt(zmq.CURVE_SECRETKEY, _key(keys.own.secret))
        self._inbox.setsockopt(zmq.ZAP_DOMAIN, b"helix-df")  # with one, nobody comes in whom nobody has let in
        return _Doorkeeper(self._context, self._inbox, keys.client)

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
                self._drop((address, bulk), linger_ms=0)

    def watch(self, patience_s: float) -> None:
        """See ``Endpoint``; connections that there are already aren't watched.

        It is the system that notices, by what it waits for anyway (``TCP_USER_TIMEOUT``, RFC 5482), and begins a new
        connection until there is one: no message is sent for it. A receiver that is busy or stopped is no reason, since
        its system acknowledges what it gets.
        """
        with self._lock:
            self._patience_s = patience_s

    def unreachable(self) -> frozenset[str]:
        """See ``Endpoint``."""
        now = time.monotonic()
        with self._lock:
            if self._context.closed or self._patience_s is None:
                return frozenset()
            patience_s = self._patience_s
            arrives = [(name[0], link.look(now, patience_s)) for name, link in self._links.items()]
        return frozenset(address for address, does in arrives if not does)

    def _drop_idle(self) -> None:
        """Close what was used least recently, as far as it is idle or there is too much of it."""
        idle_s = time.monotonic() - IDLE_PEER_S
        while self._peers:
            name = next(iter(self._peers))
            if len(self._peers) < self._most_peers and self._used_s[name] > idle_s:
                return
            self._drop(name, linger_ms=500)

    def _drop(self, name: tuple[str, bool], linger_ms: int) -> None:
        peer, link = self._peers.pop(name), self._links.pop(name, None)
        del self._used_s[name]
        if link is not None:
            peer.disable_monitor()
            link.events.close(linger=0)
        peer.close(linger=linger_ms)

    def _connect(self, address: str, bulk: bool) -> zmq.Socket[bytes] | None:
        """A connection to a peer; none where nobody can be: an address may be no address, and descriptors run out."""
        self._drop_idle()
        peer: zmq.Socket[bytes] | None = None
        try:
            peer = self._context.socket(zmq.PUSH)
            peer.setsockopt(zmq.SNDHWM, SEND_LIMIT)
            peer.setsockopt(zmq.IPV6, _is_ipv6(address))
            peer.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MOST_MS)
            peer.setsockopt(zmq.CONNECT_TIMEOUT, _CONNECT_MOST_MS)
            if self._patience_s is not None:
                self._links[address, bulk] = _watched(peer, self._patience_s)
            peer.connect(self._secured(peer, address))
        except (zmq.ZMQError, ValueError) as error:
            link = self._links.pop((address, bulk), None)
            if link is not None:
                link.events.close(linger=0)
            if peer is not None:
                peer.close(linger=0)
            self._failures += 1
            if self._failures & (self._failures - 1) == 0:  # ever more rarely, so that it fills no log
                log.warning("no connection to %.100s: %s (the %d. time)", address, error, self._failures)
            return None
        self._peers[address, bulk] = peer
        return peer

    def _secured(self, peer: zmq.Socket[bytes], address: str) -> str:
        """Where to connect to; an endpoint with keys sends to nobody in the clear, one without to nobody with keys.

        Raises:
            ValueError: when the address is of the other sort.
        """
        scheme, public, place = split_endpoint(address)
        if self._keys is None:
            if scheme == ENCRYPTED:
                raise ValueError("it is encrypted, and there are no keys here")
            return f"{scheme}://{place}"
        if scheme != ENCRYPTED or public is None or not is_public_key(public):
            raise ValueError("it is not encrypted, and this job is")
        peer.setsockopt(zmq.CURVE_SERVERKEY, _key(public))
        peer.setsockopt(zmq.CURVE_PUBLICKEY, _key(self._keys.client.public))
        peer.setsockopt(zmq.CURVE_SECRETKEY, _key(self._keys.client.secret))
        return f"{PLAIN}://{place}"

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


def _watched(peer: zmq.Socket[bytes], patience_s: float) -> _WatchedPeer:
    peer.setsockopt(zmq.TCP_MAXRT, int(patience_s * 1000))
    events = peer.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
    return _WatchedPeer(events, time.monotonic())


class LocalEndpoint:
    """Queues inside one process, for embedding and tests: no socket, no thread, no port."""

    _network: dict[str, LocalEndpoint] = {}  # noqa: RUF012 - the process-wide "network" is meant to be shared
    _lock = threading.Lock()

    refused_connections = 0

    def __init__(self, address: str) -> None:
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
        peer = self._network.get(same_endpoint(address))
        if peer is not None:
            peer._queue.put([_own(frame) for frame in frames])

    def watch(self, patience_s: float) -> None:
        """See ``Endpoint``: nothing is lost in one process."""

    def unreachable(self) -> frozenset[str]:
        """See ``Endpoint``."""
        return frozenset()

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


_SCHEMES = (PLAIN, ENCRYPTED, "ipc", "local")


def listen(
    address: str,
    most_bytes: int = MOST_FRAME_BYTES,
    keys: EndpointKeys | None = None,
    most_peers: int = MOST_PEERS,
) -> Endpoint:
    """Open an endpoint at ``scheme://…``; a ``*`` for the port (or name) takes any free one.

    No frame of more than ``most_bytes`` is read, and at most ``most_peers`` connections are kept to send over. At
    ``curve://`` it takes ``keys``, and they stand for nothing else.

    Raises:
        ProtocolError: for an unknown scheme.
        DeploymentError: when the address is taken or isn't of this host, or keys are missing.
    """
    scheme = address.partition("://")[0]
    if scheme not in _SCHEMES:
        raise ProtocolError("an unknown transport", found=address, expected=", ".join(f"{s}://…" for s in _SCHEMES))
    if scheme == "local":
        return LocalEndpoint(address)
    if scheme != ENCRYPTED:
        return ZmqEndpoint(address, most_bytes, most_peers=most_peers)
    if keys is None:
        raise DeploymentError("an encrypted endpoint needs keys", where=address, hint="`helix-df keys` makes them")
    return ZmqEndpoint(address, most_bytes, keys, most_peers)
