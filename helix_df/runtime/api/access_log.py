"""A line in the log for each HTTP request that was answered. What is refused before it is read has none."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from helix_df.runtime.api.request_ids import ID_NAME
from helix_df.runtime.api.traced import CLIENT_LEFT
from helix_df.runtime.log_lines import fields

log = logging.getLogger("helix_df.access")


class AccessLog:
    """Logs what ``app`` has answered; ``clock`` gives seconds of a monotonic clock."""

    def __init__(self, app: ASGIApp, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s, status = self._clock(), CLIENT_LEFT

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except BaseException:
            status = 500 if status == CLIENT_LEFT else status
            raise
        finally:
            self._tell(scope, status, self._clock() - began_s)

    def _tell(self, scope: Scope, status: int, took_s: float) -> None:
        client, method, path = (scope.get("client") or ("-",))[0], scope["method"], scope["path"]
        said = {"client": client, "method": method, "path": path, "status": status, "duration_s": round(took_s, 6)}
        # Whatever a client wrote stays in one line.
        words = f"{client} {method} {path!a} {status} {took_s:.3f} s {scope.get(ID_NAME, '-')}"
        log.info("%s", words, extra=fields(**said))
