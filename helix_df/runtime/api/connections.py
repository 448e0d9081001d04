"""Connections of HTTP clients, and what each may cost before and beside its requests.

Uvicorn's protocol over h11, with bounds: how many connections there are, how large heads are, and how long a head, a
body, a pause or a reader may take. Where all connections are taken, those go first that haven't said yet what they
want. Doesn't know what is asked (``app``).
"""

from __future__ import annotations

import asyncio
import json
import resource
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from http import HTTPStatus
from typing import Any, Protocol

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from helix_df.runtime.api.answers import error_body

LINGER_S = 1.0
"""Seconds in which a client can read why it is refused, before its connection is gone."""

MOST_LINGERING = 64
"""Refused connections that get this time."""

SPARE_DESCRIPTORS = 128
"""File descriptors that connections leave to everything else."""

FEWEST_CONNECTIONS = 16

MOST_UNWANTED = 64 * 1024
"""Bytes of a body that nobody wants which are read all the same, so that the connection can go on."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What clients may take.

    Args:
        connections: at once.
        head_bytes: of a request line and its headers.
        headers: of a request.
        head_s: from a connection's start, or a head's first byte, to its last.
        body_s: from the end of the head to the end of the body.
        idle_s: between two requests of a connection.
        write_s: in which a client reads nothing of what is sent.
    """

    connections: int = 2048
    head_bytes: int = 16 * 1024
    headers: int = 100
    head_s: float = 10.0
    body_s: float = 60.0
    idle_s: int = 30
    write_s: float = 60.0

    def within(self, descriptors: int) -> ConnectionLimits:
        """The same for a process that may open so many file descriptors."""
        most = max(FEWEST_CONNECTIONS, descriptors - SPARE_DESCRIPTORS)
        return replace(self, connections=min(self.connections, most))


def raise_descriptor_limit() -> int:
    """Let this process open as many file descriptors as the system lets it, up to 65,536; how many that are now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return 65_536 if soft == resource.RLIM_INFINITY else soft


class Droppable(Protocol):
    """A connection that can be ended."""

    def drop(self) -> None:
        """Close it at once."""
        ...


@dataclass(slots=True)
class Crowd:
    """All connections of one server: those that haven't said (all) yet what they want, the oldest first, those that
    were refused and are still there, and how many were, by reason."""

    unheard: dict[Droppable, None] = field(default_factory=dict)
    lingering: set[BoundedProtocol] = field(default_factory=set)
    refused: Counter[str] = field(default_factory=Counter)

    def give_way(self) -> bool:
        """Close the connection that has been silent or half open for longest; False if there is none."""
        oldest = next(iter(self.unheard), None)
        if oldest is None:
            return False
        del self.unheard[oldest]
        self.refused["gave_way"] += 1
        oldest.drop()
        return True


@dataclass(frozen=True, slots=True)
class QuickRefusal:
    """The whole answer to a request of which ``unread`` bytes of the body haven't come; the client ``closes`` after."""

    answer: bytes
    closing_answer: bytes
    unread: int
    closes: bool


class Refuses(Protocol):
    """Who refuses requests by their first bytes (``QuickRefusals``)."""

    def refusal(self, data: bytes, most_bytes: int, most_headers: int) -> QuickRefusal | None:
        """What to answer, if that is clear already."""
        ...


def bounded_protocol(limits: ConnectionLimits, crowd: Crowd, quick: Refuses | None = None) -> Any:
    """What uvicorn makes a protocol with, for each connection."""
    return partial(BoundedProtocol, limits=limits, crowd=crowd, quick=quick)


class CheckedConnection(h11.Connection):
    """An HTTP/1.1 connection that checks the size of heads, however they arrive.

    ``on_event`` hears of every event; ``refusal`` is the status and the reason of the error that ended it.
    """

    def __init__(self, limits: ConnectionLimits, on_event: Callable[[object], None]) -> None:
        super().__init__(h11.SERVER, limits.head_bytes)
        self._limits = limits
        self._on_event = on_event
        self.refusal = (400, "this is not an HTTP request")

    def next_event(self) -> Any:
        """See ``h11.Connection``.

        Raises:
            RemoteProtocolError: also for a head that is too large.
        """
        try:
            event = super().next_event()
            if isinstance(event, h11.Request):
                self._check(event)
        except h11.RemoteProtocolError as error:
            # As h11 says, a head that is too large may as well be called that.
            self.refusal = (error.error_status_hint, f"this is not an HTTP request that is taken here: {error}")
            raise
        self._on_event(event)
        return event

    def _check(self, request: h11.Request) -> None:
        size = len(request.target) + sum(len(name) + len(value) + 4 for name, value in request.headers)
        if len(request.headers) > self._limits.headers:
            raise h11.RemoteProtocolError(f"more than {self._limits.headers} headers", error_status_hint=431)
        if size > self._limits.head_bytes:
            raise h11.RemoteProtocolError(f"a head of more than {self._limits.head_bytes} bytes", error_status_hint=431)


class BoundedProtocol(H11Protocol):
    """One connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: ConnectionLimits,
        crowd: Crowd,
        quick: Refuses | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self._crowd = crowd
        self._quick = quick
        self._unwanted = 0
        self._checked = CheckedConnection(limits, self._on_event)
        self.conn = self._checked
        self._deadline: asyncio.TimerHandle | None = None
        self._reader_deadline: asyncio.TimerHandle | None = None
        self._refused = False
        self._head_begun = False

    # ------------------------------------------------------------------ what asyncio calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, if there is room."""
        if len(self.connections) >= self._limits.connections and not self._crowd.give_way():
            self.transport = transport
            self._turn_away(
                503, f"all {self._limits.connections} connections are taken", "too_many_connections", "connections"
            )
            return
        super().connection_made(transport)
        self._crowd.unheard[self] = None
        self._within(self._limits.head_s, self._on_late_head)

    def data_received(self, data: bytes) -> None:
        """Take in what a client sends, unless it was refused."""
        if self._refused:
            return
        if self._unwanted:
            data = self._skipped(data)
        if not data or self._refused_at_once(data):
            return
        if self.conn.their_state is h11.IDLE:
            self._head_begun = True
            if self._deadline is None:
                self._within(self._limits.head_s, self._on_late_head)
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._at_ease()
        self.resume_writing()
        self._crowd.unheard.pop(self, None)
        self._crowd.lingering.discard(self)
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def pause_writing(self) -> None:
        """Wait for a client that doesn't read, but not forever."""
        if self._refused:
            return
        super().pause_writing()
        if self._reader_deadline is None:
            self._reader_deadline = self.loop.call_later(self._limits.write_s, self._on_no_reader)

    def resume_writing(self) -> None:
        """The client reads again."""
        if self._reader_deadline is not None:
            self._reader_deadline.cancel()
            self._reader_deadline = None
        if self in self.connections:
            super().resume_writing()

    # ------------------------------------------------------------------ what uvicorn calls

    def send_400_response(self, msg: str) -> None:
        """Refuse what isn't HTTP, or too much of it."""
        status, why = self._checked.refusal
        self._turn_away(status, why, "headers_too_large" if status == 431 else "not_http", "head")

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the rest of a body that isn't wanted."""
        self._head_begun = False
        self._crowd.unheard[self] = None
        if self.conn.their_state is h11.SEND_BODY:
            self._within(LINGER_S, self.drop)
        super().on_response_complete()

    # ------------------------------------------------------------------ time

    def drop(self) -> None:
        """Close the connection at once."""
        self._break_off()
        self.transport.abort()

    def _on_event(self, event: object) -> None:
        if isinstance(event, h11.Request):
            self._within(self._limits.body_s, self._on_late_body)
        elif isinstance(event, h11.EndOfMessage):
            self._at_ease()
            self._head_begun = False
            self._crowd.unheard.pop(self, None)

    def _on_late_head(self) -> None:
        if not self._head_begun:
            self._crowd.refused["idle"] += 1
            self.transport.close()
            return
        why = f"the head of the request didn't arrive within {self._limits.head_s:g} s"
        self._turn_away(408, why, "request_timeout", "late_head")

    def _on_late_body(self) -> None:
        why = f"the body of the request didn't arrive within {self._limits.body_s:g} s"
        self._turn_away(408, why, "request_timeout", "late_body")

    def _on_no_reader(self) -> None:
        self._crowd.refused["no_reader"] += 1
        self.drop()

    def _within(self, seconds: float, otherwise: Callable[[], None]) -> None:
        self._at_ease()
        self._deadline = self.loop.call_later(seconds, otherwise)

    def _at_ease(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    # ------------------------------------------------------------------ refusals

    def _refused_at_once(self, data: bytes) -> bool:
        """Whether a request was refused by its first bytes, before h11 has seen any of it."""
        if self._quick is None or self._head_begun or self.conn.their_state is not h11.IDLE:
            return False
        if self.conn.our_state is not h11.IDLE or self.conn.trailing_data[0] or self.flow.write_paused:
            return False  # an answer before this one must come first, or the client doesn't read
        found = self._quick.refusal(data, self._limits.head_bytes, self._limits.headers)
        if found is None:
            return False
        self._at_ease()
        self._unset_keepalive_if_required()
        if found.unread > MOST_UNWANTED or (found.unread and found.closes):
            self._refused = True
            self._end_with(found.closing_answer)
        elif found.closes:
            self.transport.write(found.closing_answer)
            self.transport.close()
        else:
            self.transport.write(found.answer)
            self._unwanted = found.unread
            self._crowd.unheard.pop(self, None)
            self._crowd.unheard[self] = None
            if found.unread:
                self._within(self._limits.body_s, self._on_unwanted)
            else:
                self._await_next()
        return True

    def _skipped(self, data: bytes) -> bytes:
        """What follows on a body that nobody wants."""
        rest = data[self._unwanted :]
        self._unwanted = max(0, self._unwanted - len(data))
        if not self._unwanted:
            self._at_ease()
            self._await_next()
        return rest

    def _await_next(self) -> None:
        """Let the connection be idle for as long as it may."""
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _on_unwanted(self) -> None:
        self._crowd.refused["late_body"] += 1
        self.drop()

    def _turn_away(self, status: int, why: str, code: str, reason: str) -> None:
        """Say why, and end the connection once the client could have read it."""
        self._crowd.refused[reason] += 1
        self._refused = True
        begun = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        self._break_off()
        if begun:  # an answer is under way, and nothing else can be said
            self.transport.close()
            return
        self._end_with(_answer(status, why, code))

    def _end_with(self, answer: bytes) -> None:
        """Say a last thing, and close."""
        self.transport.write(answer)
        if len(self._crowd.lingering) >= MOST_LINGERING or not self.transport.can_write_eof():
            self.transport.close()
            return
        # Closed at once, with something unread, the system would take the answer back.
        self._crowd.lingering.add(self)
        self.transport.write_eof()
        self._within(LINGER_S, self.transport.abort)

    def _break_off(self) -> None:
        """Tell the request that is under way that its client is gone."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()


def _answer(status: int, why: str, code: str) -> bytes:
    body = json.dumps(error_body(status, why, code=code)).encode()
    again = "Retry-After: 1\r\n" if status == 503 else ""
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n{again}Connection: close\r\n\r\n"
    )
    return head.encode() + body
