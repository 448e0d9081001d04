"""HTTP plumbing that generation needs: work that ends when the client leaves, server-sent events, bounded bodies.

Doesn't know what is generated or how answers look.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from helix_df.errors import HelixError, RequestError

log = logging.getLogger(__name__)

T = TypeVar("T")
Json = dict[str, Any]


async def until_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is cancelled and cleaned up first if the client goes away.

    Call it once the request's body was read.

    Raises:
        ClientDisconnect: when the client went away.
    """
    task = asyncio.create_task(work)
    watcher = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        watcher.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def read_json_body(request: Request, limit_bytes: int) -> bytes:
    """The body of a JSON request.

    A body of another content type is refused, so that no web page can post here without the browser asking first.

    Raises:
        RequestError: when it isn't declared as JSON, or is longer than ``limit_bytes``.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise RequestError(
            "The request needs a body of JSON.",
            code="unsupported_media_type",
            status=415,
            expected="Content-Type: application/json",
        )
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit_bytes:
        raise _too_large(limit_bytes)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit_bytes:
            raise _too_large(limit_bytes)
    return bytes(body)


def _too_large(limit_bytes: int) -> RequestError:
    return RequestError(f"The body of the request is over {limit_bytes} bytes.", code="request_too_large", status=413)


EVENT_ID = "event id"
"""Where a document has its event's ``id``, by which a client that comes back says what it has; it isn't sent itself."""

EVENT_NAME = "event name"
"""Where a document has the name of its event, in dialects that name them; it isn't sent itself."""

_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))

PING_S = 15.0
"""Seconds without an event after which a comment says that the server is still there."""


class EventStream(Response):
    """Sends JSON documents as server-sent events, then ``[DONE]``; of none, only that.

    The first document is awaited before the status is sent, so that a refusal still is an HTTP error; a later one is
    sent as an event in the words of ``describe``, without ``[DONE]``. The documents' generator is closed in any case.

    Args:
        documents: what is sent.
        describe: says an error as status and document.
        headers: further ones.
        done: whether ``[DONE]`` comes last.
        places: whether events have their ``id``, where they have a place.
        ping_s: see ``PING_S``.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        documents: AsyncGenerator[Json, None],
        describe: Callable[[HelixError], tuple[int, Json]],
        *,
        headers: Mapping[str, str] | None = None,
        done: bool = True,
        places: bool = True,
        ping_s: float = PING_S,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **(headers or {})})
        del self.headers["content-length"]
        self._documents = documents
        self._describe = describe
        self._ending = b"data: [DONE]\n\n" if done else b""
        self._places = places
        self._ping_s = ping_s
        self._is_quiet = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, or as much as the client stays for."""
        with suppress(ClientDisconnect):
            await until_disconnect(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._documents):
            first = await anext(self._documents, None)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if first is not None:
                await _send_part(send, self._event(first))
            pinging = asyncio.create_task(self._ping(send))
            try:
                async for document in self._documents:
                    self._is_quiet = False
                    await _send_part(send, self._event(document))
                ending = self._ending
            except HelixError as error:
                ending = self._event(self._describe(error)[1])
            except Exception:
                log.exception("an answer broke off")
                ending = self._event(self._describe(HelixError("internal error"))[1])
            finally:
                pinging.cancel()
            await send({"type": "http.response.body", "body": ending})

    def _event(self, document: Json) -> bytes:
        place, name = document.pop(EVENT_ID, None), document.pop(EVENT_NAME, None)
        text = _JSON.encode(document)
        marks = f"id: {place}\n" if self._places and place is not None else ""
        marks += "" if name is None else f"event: {name}\n"
        return marks.encode() + b"data: " + text.encode() + b"\n\n"

    async def _ping(self, send: Send) -> None:
        """Comments, which clients skip, for whoever stands between and would take silence for the end."""
        while True:
            self._is_quiet = True
            await asyncio.sleep(self._ping_s)
            if self._is_quiet:
                await _send_part(send, b": ping\n\n")


async def _send_part(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
