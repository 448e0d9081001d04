"""Refusals of a full queue by the first bytes of a request, before anything is made of it.

Under overload most of what comes is refused, so that must cost next to nothing beside an answer. Owns which bytes are a
head that is plain enough to be answered by itself; all others go the long way, and are refused there if need be.
Doesn't know connections.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable

from helix_df.errors import RequestError
from helix_df.runtime.api.answers import describe
from helix_df.runtime.api.connections import QuickRefusal
from helix_df.runtime.api.keys import KeyRing, LimitReached
from helix_df.runtime.api.metrics import Metrics
from helix_df.runtime.api.overload import QueueRoom, whole_seconds

_METHOD = b"POST /v1/c"
_HEAD = re.compile(
    rb"POST (/v1/(?:chat/)?completions) HTTP/1\.1\r\n((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n\0]*\r\n)+)\r\n"
)
_LENGTH = re.compile(rb"^content-length:[ \t]*([0-9]{1,12})[ \t]*\r$", re.MULTILINE)
_AUTHORIZATION = re.compile(rb"^authorization:[ \t]*([^\r]*?)[ \t]*\r$", re.MULTILINE | re.IGNORECASE)
_CLOSE = re.compile(rb"^connection:[^\r]*close", re.MULTILINE)
_TAKES_THOUGHT = re.compile(rb"^(?:transfer-encoding|expect|upgrade):", re.MULTILINE)

_SAME_WORDS_S = 0.1
"""So long the same words serve for all that are refused for the same reason."""


class QuickRefusals:
    """Refuses for one server.

    Args:
        room: whether the queue takes more.
        keys: who may come in; everybody if None.
        metrics: where refusals are counted.
        clock: seconds of a monotonic clock.
    """

    def __init__(
        self, room: QueueRoom, keys: KeyRing | None, metrics: Metrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._room = room
        self._keys = keys
        self._metrics = metrics
        self._clock = clock
        self._words: tuple[bytes, bytes] = (b"", b"")
        self._words_for: tuple[str, str | None] = ("", None)
        self._words_until_s = 0.0

    def refusal(self, data: bytes, most_bytes: int, most_headers: int) -> QuickRefusal | None:
        """What to answer to the first bytes of a request, if the queue has no room for it.

        None for whatever isn't one whole head within the limits and no more than its own body; and for those without a
        key that is known, who are told that.
        """
        if self._room.is_ample or not data.startswith(_METHOD):
            return None
        head = _HEAD.match(data)
        if head is None or head.end() > most_bytes:
            return None
        fields = head[2].lower()
        lengths = _LENGTH.findall(fields)
        if len(lengths) != 1 or fields.count(b"content-length") != 1 or _TAKES_THOUGHT.search(fields):
            return None
        unread = int(lengths[0]) - (len(data) - head.end())
        if unread < 0 or fields.count(b"\n") > most_headers:
            return None
        try:
            owner = self._owner(head[2])
        except RequestError:
            return None
        error = self._room.refusal(owner)
        if error is None:
            return None
        self._metrics.count_request(head[1].decode(), 429)
        return QuickRefusal(*self._said(error, owner), unread, _CLOSE.search(fields) is not None)

    def _owner(self, fields: bytes) -> str | None:
        if self._keys is None:
            return None
        found = _AUTHORIZATION.search(fields)
        return self._keys.find("" if found is None else found[1].decode("latin-1")).name

    def _said(self, error: LimitReached, owner: str | None) -> tuple[bytes, bytes]:
        """The answer for a connection that goes on, and for one that ends."""
        what, now = (error.code or "", owner), self._clock()
        if what != self._words_for or now >= self._words_until_s:
            self._words = refusal_bytes(error, closes=False), refusal_bytes(error, closes=True)
            self._words_for, self._words_until_s = what, now + _SAME_WORDS_S
        return self._words


def refusal_bytes(error: LimitReached, *, closes: bool) -> bytes:
    """A 429 as it goes over the wire."""
    _, document = describe(error)
    body = json.dumps(document).encode()
    head = (
        "HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nretry-after: {whole_seconds(error.retry_after_s)}\r\n"
        + ("connection: close\r\n" if closes else "")
    )
    return f"{head}\r\n".encode() + body
