"""Ids of requests: the client's own, or one that is made up; each answer has that of its request in a header."""

from __future__ import annotations

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from helix_df.runtime.log_lines import REQUEST_ID

ID_HEADER = "X-Request-Id"
MESSAGES_ID_HEADER = "Request-Id"
"""The same, where Anthropic's clients look for it."""
ID_NAME = "helix_df.request_id"
"""Where a request's scope has its id."""

_ID = re.compile(r"[!-~]{1,128}")


class WithRequestIds:
    """Gives every request an id, and every answer that of its request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        said = Headers(scope=scope).get(ID_HEADER, "")
        name = said if _ID.fullmatch(said) else f"req_{uuid.uuid4().hex}"
        scope[ID_NAME] = name

        async def naming(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers[ID_HEADER] = name
                if scope["path"].startswith("/v1/messages"):
                    headers[MESSAGES_ID_HEADER] = name
            await send(message)

        token = REQUEST_ID.set(name)
        try:
            await self._app(scope, receive, naming)
        finally:
            REQUEST_ID.reset(token)
