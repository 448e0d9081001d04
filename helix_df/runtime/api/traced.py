"""A span for each request that asks for tokens: as a part of its client's trace, if it came with one.

Doesn't know OpenTelemetry: a ``Tracer`` says which requests are traced, and what becomes of their spans.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from helix_df.runtime.api.request_ids import ID_NAME
from helix_df.runtime.log_lines import TRACE_ID
from helix_df.runtime.tracing.spans import Attribute

TRACE_NAME = "helix_df.traceparent"
"""Where a request's scope has the ``traceparent`` of its span, if it is traced."""

CLIENT_LEFT = 499

OPERATIONS = {
    "/v1/completions": "text_completion",
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/embeddings": "embeddings",
}
"""What is traced, by path, as OpenTelemetry's conventions for generative AI call it."""


class BegunSpan(Protocol):
    """The span of a request that is being answered."""

    @property
    def traceparent(self) -> str:
        """For what is a part of it (W3C Trace Context)."""
        ...

    def end(self, attributes: Mapping[str, Attribute], error: str | None = None) -> None:
        """It is over."""
        ...


class Tracer(Protocol):
    """Says what is traced."""

    def begin(self, headers: Mapping[str, str], name: str, attributes: Mapping[str, Attribute]) -> BegunSpan | None:
        """The span of a request with these headers; ``None`` if it isn't traced."""
        ...


class Traced:
    """Gives requests their spans.

    Args:
        app: what answers.
        tracer: which ones have any.
        model: the name of the job's model.
    """

    def __init__(self, app: ASGIApp, tracer: Tracer, model: str) -> None:
        self._app = app
        self._tracer = tracer
        self._model = model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        operation = OPERATIONS.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        span = None if operation is None else self._begin(scope, operation)
        if span is None:
            await self._app(scope, receive, send)
            return
        scope[TRACE_NAME] = span.traceparent
        status = CLIENT_LEFT

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        token = TRACE_ID.set(trace_id(span.traceparent))
        try:
            await self._app(scope, receive, noting)
        except BaseException:
            status = 500
            raise
        finally:
            TRACE_ID.reset(token)
            span.end({"http.response.status_code": status}, str(status) if status >= 500 else None)

    def _begin(self, scope: Scope, operation: str) -> BegunSpan | None:
        method, path = scope["method"], scope["path"]
        attributes = {
            "http.request.method": method,
            "http.route": path,
            "url.path": path,
            "url.scheme": scope["scheme"],
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "helix_df",
            "gen_ai.request.model": self._model,
            "helix_df.request_id": scope.get(ID_NAME, ""),
        }
        return self._tracer.begin(Headers(scope=scope), f"{method} {path}", attributes)


def trace_id(traceparent: str) -> str:
    """The trace that a ``traceparent`` is of, in hex."""
    return traceparent.split("-")[1]
