"""The OpenAI-compatible HTTP API of one job, with its health, status and metrics.

Owns routes, HTTP statuses and the flow of a request: read, check, prepare, generate, answer. Doesn't know how text is
generated (``generation``) or phrased (``answers``).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from helix_df.errors import HelixError, RequestError
from helix_df.runtime.access import CONTROL
from helix_df.runtime.api.about import About
from helix_df.runtime.api.access_log import AccessLog
from helix_df.runtime.api.answers import (
    ChatDialect,
    CompletionDialect,
    Json,
    public_status,
    why_not_ready,
)
from helix_df.runtime.api.bodies import ChatBody, CompletionBody
from helix_df.runtime.api.connections import Crowd
from helix_df.runtime.api.control import Control, control_routes
from helix_df.runtime.api.embeddings import Embeddings
from helix_df.runtime.api.error_dialects import on_disconnect, on_error, on_http_error, refusal
from helix_df.runtime.api.flow import IGNORED_HEADER, AnswerFlow
from helix_df.runtime.api.generation import TextService
from helix_df.runtime.api.keys import KeyRing, LimitReached
from helix_df.runtime.api.messages_endpoint import MessagesEndpoint
from helix_df.runtime.api.metrics import CONTENT_TYPE, Metrics
from helix_df.runtime.api.overload import Drain, QueueRoom
from helix_df.runtime.api.page import is_page, page_routes
from helix_df.runtime.api.parsing import BodyReader
from helix_df.runtime.api.quick_refusals import QuickRefusals
from helix_df.runtime.api.reconnect import KEY_NAME, Reconnects
from helix_df.runtime.api.request_ids import ID_HEADER, WithRequestIds
from helix_df.runtime.api.responses_endpoint import ResponsesEndpoint
from helix_df.runtime.api.tokenizing import Tokenizing
from helix_df.runtime.api.traced import CLIENT_LEFT, Traced, Tracer
from helix_df.runtime.overview import overview

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 4 * 2**20


def create_app(
    text: TextService,
    *,
    created: int | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
    crowd: Crowd | None = None,
    reconnects: Reconnects | None = None,
    max_queue: int | None = None,
    keys: KeyRing | None = None,
    control: Control | None = None,
    cors_origins: Sequence[str] = (),
    vllm_metrics: bool = False,
    tracer: Tracer | None = None,
    access_log: bool = False,
) -> Starlette:
    """The HTTP application of a job; its ``state.quick`` refuses what needn't come as far (``QuickRefusals``).

    Args:
        text: what answers.
        created: when the model went up, in Unix seconds; now by default.
        max_body_bytes: of the largest body that is read.
        crowd: the connections of its server, for the metrics.
        reconnects: answers that outlive a connection; none do if None.
        max_queue: requests that may wait; with so many, further ones are refused before they are read.
        keys: who may come in; everybody by default.
        control: of the job, for who holds its secret; nobody can tell it anything if None.
        cors_origins: of the web pages whose scripts may ask; ``*`` for all.
        vllm_metrics: whether vLLM's names of metrics stand beside ours.
        tracer: which requests are traced; none are if None.
        access_log: whether there is a line in the log for each request.
    """
    metrics = Metrics(text.snapshot, crowd, as_vllm=text.model_name if vllm_metrics else None)
    room = QueueRoom(text.waiting, max_queue, Drain())
    began = int(time.time()) if created is None else created
    bodies = BodyReader(max_body_bytes)
    flow = AnswerFlow(text, metrics, room, reconnects)

    @cache
    def document() -> Json:
        # Made when it is first asked for: it takes as long as a good part of a start, and few ask.
        from helix_df.runtime.api.openapi import openapi_document

        return openapi_document(
            text.model_name,
            needs_key=keys is not None,
            keeps_answers=reconnects is not None,
            is_controlled=control is not None,
        )

    api = _Api(text, metrics, bodies, room, flow, document)
    routes = [
        *About(flow, began, max_body_bytes, max_queue).routes(),
        *Tokenizing(flow, bodies).routes(),
        *Embeddings(flow, bodies).routes(),
        *MessagesEndpoint(flow, bodies).routes(),
        *ResponsesEndpoint(flow, bodies).routes(),
        Route("/v1/completions", api.completions, methods=["POST"]),
        Route("/v1/chat/completions", api.chat, methods=["POST"]),
        Route("/health", api.health, methods=["GET"]),
        Route("/metrics", api.metrics_text, methods=["GET"]),
        Route("/helix/status", api.status, methods=["GET"]),
        Route("/helix/overview", api.overview, methods=["GET"]),
        Route("/openapi.json", api.openapi, methods=["GET"]),
        Route("/docs", api.docs, methods=["GET"]),
        *page_routes(),
        *([] if control is None else control_routes(control)),
    ]
    if reconnects is not None:
        routes.append(Route("/helix/requests/{id}", reconnects.get, methods=["GET"]))
    app = Starlette(
        routes=routes,
        exception_handlers={
            HelixError: api.on_error,
            HTTPException: on_http_error,
            ClientDisconnect: on_disconnect,
            Exception: on_error,
        },
    )
    app.router.redirect_slashes = False  # a path that there isn't is told so, and sends nobody to whatever Host says
    app.state.quick = QuickRefusals(room, keys, metrics)
    _add_middleware(app, keys, cors_origins)
    if access_log:
        app.add_middleware(AccessLog)
    if tracer is not None:
        app.add_middleware(Traced, tracer=tracer, model=text.model_name)
    app.add_middleware(WithRequestIds)
    # Last, so that it sees all of them.
    app.add_middleware(_Counted, metrics=metrics, endpoints=frozenset(_endpoint(route.path) for route in routes))
    return app


def _add_middleware(app: Starlette, keys: KeyRing | None, cors_origins: Sequence[str]) -> None:
    """What a request passes before its endpoint, the last added first."""
    if keys is not None:
        app.add_middleware(_Keyed, keys=keys)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=(ID_HEADER, IGNORED_HEADER, "Retry-After"),
        )


class _Api:
    """The endpoints."""

    def __init__(
        self,
        text: TextService,
        metrics: Metrics,
        bodies: BodyReader,
        room: QueueRoom,
        flow: AnswerFlow,
        document: Callable[[], Json],
    ) -> None:
        self._text = text
        self._metrics = metrics
        self._bodies = bodies
        self._room = room
        self._flow = flow
        self._document = document

    async def health(self, request: Request) -> Response:
        status = self._text.snapshot()
        detail = status.detail if status.ready else why_not_ready(status)
        body = {"status": status.state, "ready": status.ready, "detail": detail}
        return JSONResponse(body, status_code=200 if status.ready else 503)

    async def status(self, request: Request) -> Response:
        # Of a thousand nodes it takes a while, and tokens don't wait for it.
        status = self._text.snapshot()
        return await asyncio.to_thread(lambda: JSONResponse(public_status(status)))

    async def overview(self, request: Request) -> Response:
        status, medians_s = self._text.snapshot(), self._metrics.medians_s()
        return await asyncio.to_thread(lambda: JSONResponse(asdict(overview(status, *medians_s))))

    async def metrics_text(self, request: Request) -> Response:
        text = await asyncio.to_thread(self._metrics.text, self._text.snapshot())
        return Response(text, headers={"Content-Type": CONTENT_TYPE})

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(self._document))

    async def docs(self, request: Request) -> Response:
        from helix_df.runtime.api.openapi import docs_page

        return HTMLResponse(docs_page(await asyncio.to_thread(self._document)))

    async def completions(self, request: Request) -> Response:
        self._flow.require_room(request)
        body = await self._bodies.read(CompletionBody, request)
        return await self._flow.answer(request, body, CompletionDialect.prefix, echo=body.echo)

    async def chat(self, request: Request) -> Response:
        self._flow.require_room(request)
        body = await self._bodies.read(ChatBody, request)
        return await self._flow.answer(request, body, ChatDialect.prefix)

    async def on_error(self, request: Request, error: Exception) -> Response:
        """The answer that says an error."""
        assert isinstance(error, HelixError)
        if isinstance(error, RequestError) and not isinstance(error, LimitReached):
            error = self._room.reworded(error, request.scope.get(KEY_NAME)) or error
        return refusal(request, error)


class _Counted:
    """Counts every answer by endpoint and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics, endpoints: frozenset[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = CLIENT_LEFT

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        path = scope["path"]
        endpoint = next((one for one in _WITH_NAMES if path.startswith(f"{one}/")), path)
        try:
            await self._app(scope, receive, noting)
        except Exception:
            status = 500
            raise
        finally:
            self._metrics.count_request(endpoint if endpoint in self._endpoints else "other", status)


_WITH_NAMES = ("/v1/models", "/helix/requests")
"""Endpoints whose paths go on with a name."""


class _Keyed:
    """Lets those in who have a key, as far as its limits go. ``/health`` and the page are for everybody."""

    def __init__(self, app: ASGIApp, keys: KeyRing) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _needs_no_key(scope["path"]):
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        begun = False
        try:
            key = self._keys.find(said_key(request))
            scope[KEY_NAME] = key.name
            if scope["method"] == "POST":
                with self._keys.counted(key):
                    begun = True
                    await self._app(scope, receive, send)
                return
        except RequestError as error:
            if begun:
                raise
            await refusal(request, error)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _needs_no_key(path: str) -> bool:
    """Who controls the job proves it by its secret, not by a key; the page has nothing that isn't in the package."""
    return path == "/health" or path.startswith(f"{CONTROL}/") or is_page(path)


def _endpoint(path: str) -> str:
    return path.partition("/{")[0]


def said_key(request: Request) -> str:
    """The key that a request came with, as OpenAI's clients send it, or as Anthropic's do."""
    own = request.headers.get("x-api-key")
    return request.headers.get("authorization", "" if own is None else f"Bearer {own}")
