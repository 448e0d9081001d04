"""The OpenAI-compatible HTTP API of one job, with its health, status and metrics.

Owns routes, HTTP statuses and the flow of a request: read, check, prepare, generate, answer. Doesn't know how text is
generated (``generation``) or phrased (``answers``).
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from helix_df.errors import HelixError, RequestError
from helix_df.runtime.api.answering import Form, Pieces, chunks, only_whole, the_only
from helix_df.runtime.api.answers import (
    ChatDialect,
    CompletionDialect,
    Json,
    describe,
    error_body,
    public_status,
    why_not_ready,
)
from helix_df.runtime.api.bodies import Body, ChatBody, CompletionBody, timeout_of
from helix_df.runtime.api.connections import Crowd
from helix_df.runtime.api.control import PREFIX as CONTROL
from helix_df.runtime.api.control import Control, control_routes
from helix_df.runtime.api.generation import Chat, Prepared, TextPiece, TextRequest, TextService, TokenLimits, merge
from helix_df.runtime.api.keys import KeyRing, LimitReached
from helix_df.runtime.api.metrics import CONTENT_TYPE, Metrics
from helix_df.runtime.api.openapi import docs_page, openapi_document
from helix_df.runtime.api.overload import Drain, QueueRoom, whole_seconds
from helix_df.runtime.api.parsing import BodyReader
from helix_df.runtime.api.quick_refusals import QuickRefusals
from helix_df.runtime.api.reconnect import KEY_NAME, Reconnects
from helix_df.runtime.api.refusals import shortened
from helix_df.runtime.api.stream import EventStream, until_disconnect
from helix_df.runtime.requests import GenerationRequest

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 4 * 2**20
CLIENT_LEFT = 499


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
    """
    metrics = Metrics(text.snapshot, crowd)
    room = QueueRoom(text.waiting, max_queue, Drain())
    began = int(time.time()) if created is None else created
    bodies = BodyReader(max_body_bytes)
    api = _Api(
        text,
        metrics,
        began,
        bodies,
        reconnects,
        room,
        needs_key=keys is not None,
        is_controlled=control is not None,
    )
    routes = [
        Route("/v1/models", api.models, methods=["GET"]),
        Route("/v1/models/{model:path}", api.model, methods=["GET"]),
        Route("/v1/completions", api.completions, methods=["POST"]),
        Route("/v1/chat/completions", api.chat, methods=["POST"]),
        Route("/health", api.health, methods=["GET"]),
        Route("/metrics", api.metrics_text, methods=["GET"]),
        Route("/helix/status", api.status, methods=["GET"]),
        Route("/openapi.json", api.openapi, methods=["GET"]),
        Route("/docs", api.docs, methods=["GET"]),
        *([] if control is None else control_routes(control)),
    ]
    if reconnects is not None:
        routes.append(Route("/helix/requests/{id}", reconnects.get, methods=["GET"]))
    app = Starlette(
        routes=routes,
        exception_handlers={
            HelixError: api.on_error,
            HTTPException: _on_http_error,
            ClientDisconnect: _on_disconnect,
            Exception: _on_error,
        },
    )
    app.router.redirect_slashes = False  # a path that there isn't is told so, and sends nobody to whatever Host says
    app.state.quick = QuickRefusals(room, keys, metrics)
    if keys is not None:
        app.add_middleware(_Keyed, keys=keys)
    app.add_middleware(_Counted, metrics=metrics, endpoints=frozenset(_endpoint(route.path) for route in routes))
    return app


@dataclass(frozen=True, slots=True)
class _Asked:
    """A checked request on its way: its prompts (each is answered ``n`` times), and how to phrase the answer.

    ``name`` is what its client calls it.
    """

    prompts: tuple[Prepared, ...]
    form: Form
    name: str | None

    def requests(self, text: TextService) -> list[GenerationRequest]:
        """What the token service is to be asked for, in the order of OpenAI's choice indices."""
        n = self.form.n
        return [
            text.request(self.prompts[index // n], f"{self.form.id}-{index}", index % n)
            for index in range(len(self.form.echoes))
        ]


class _Api:
    """The endpoints."""

    def __init__(
        self,
        text: TextService,
        metrics: Metrics,
        created: int,
        bodies: BodyReader,
        reconnects: Reconnects | None,
        room: QueueRoom,
        *,
        needs_key: bool,
        is_controlled: bool,
    ) -> None:
        self._reconnects = reconnects
        self._text = text
        self._metrics = metrics
        self._created = created
        self._bodies = bodies
        self._room = room
        self._document = openapi_document(
            text.model_name,
            needs_key=needs_key,
            keeps_answers=reconnects is not None,
            is_controlled=is_controlled,
        )

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        self._require_model(request.path_params["model"])
        return JSONResponse(self._model())

    async def health(self, request: Request) -> Response:
        status = self._text.snapshot()
        detail = status.detail if status.ready else why_not_ready(status)
        body = {"status": status.state, "ready": status.ready, "detail": detail}
        return JSONResponse(body, status_code=200 if status.ready else 503)

    async def status(self, request: Request) -> Response:
        return JSONResponse(public_status(self._text.snapshot()))

    async def metrics_text(self, request: Request) -> Response:
        return Response(self._metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(self._document)

    async def docs(self, request: Request) -> Response:
        return HTMLResponse(docs_page(self._document))

    async def completions(self, request: Request) -> Response:
        self._require_room(request)
        body = await self._bodies.read(CompletionBody, request)
        return await self._answer(request, await self._ask(request, body, CompletionDialect.prefix, echo=body.echo))

    async def chat(self, request: Request) -> Response:
        self._require_room(request)
        body = await self._bodies.read(ChatBody, request)
        return await self._answer(request, await self._ask(request, body, ChatDialect.prefix))

    async def _ask(self, request: Request, body: Body, dialect: str, echo: bool = False) -> _Asked:
        self._require_model(body.model)
        limits = self._require_ready()
        # Tokenizing a long prompt takes a while: others' tokens must go on flowing.
        requests, prompts = await asyncio.to_thread(self._prepare, body, limits)
        owner = request.scope.get(KEY_NAME)
        timeout_s = timeout_of(request.headers, body)
        prompts = tuple(replace(prompt, timeout_s=timeout_s, owner=owner) for prompt in prompts)
        form = Form(
            dialect=dialect,
            id=f"{dialect}-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=self._text.model_name,
            n=body.n,
            stream=body.stream,
            includes_usage=body.includes_usage,
            return_token_ids=body.return_token_ids,
            wants_logprobs=prompts[0].sampling.logprobs is not None,
            echoes=tuple(self._echo(item) if echo else "" for item in requests for _ in range(body.n)),
            stops=tuple(prompt.stop for prompt in prompts),
            prompt_tokens=tuple(len(prompt.prompt) for prompt in prompts),
            owner=owner,
            reading=prompts[0].reading,
        )
        name = None if self._reconnects is None else await self._reconnects.name_of(request)
        return _Asked(prompts, form, name)

    def _prepare(self, body: Body, limits: TokenLimits) -> tuple[tuple[TextRequest, ...], tuple[Prepared, ...]]:
        requests = body.requests()
        return requests, tuple(self._text.prepare(item, limits) for item in requests)

    async def _answer(self, request: Request, asked: _Asked) -> Response:
        documents = self._documents(asked)
        if asked.form.stream:
            return EventStream(documents, describe)
        return JSONResponse(await until_disconnect(request.receive, the_only(documents)))

    def _documents(self, asked: _Asked) -> AsyncGenerator[Json, None]:
        """The answer in chunks, or whole; kept from now on, if anybody keeps answers."""
        form, pieces = asked.form, self._pieces(asked)
        documents = (
            chunks(form, pieces, numbered=self._reconnects is not None) if form.stream else only_whole(form, pieces)
        )
        if self._reconnects is None:
            return documents
        return self._reconnects.keep(form, asked.requests(self._text), asked.name, documents)

    def _pieces(self, asked: _Asked) -> Pieces:
        """The answers to every prompt, ``n`` each, in the order of OpenAI's choice indices."""
        streams: list[AsyncGenerator[TextPiece, None]] = []
        for prompt in asked.prompts:
            for sample in range(asked.form.n):
                request_id = f"{asked.form.id}-{len(streams)}"
                streams.append(self._drained(self._metrics.timed(self._text.stream(prompt, request_id, sample))))
        return merge(streams)

    async def _drained(self, pieces: AsyncGenerator[TextPiece, None]) -> AsyncGenerator[TextPiece, None]:
        """The same pieces; the first says that a request has left the queue."""
        async with aclosing(pieces):
            first = True
            async for piece in pieces:
                if first:
                    self._room.drain.note()
                    first = False
                yield piece

    def _echo(self, request: TextRequest) -> str:
        match request.prompt:
            case str() as text:
                return text
            case tuple() as token_ids:
                return self._text.decode(token_ids)
            case Chat():
                return ""

    def _model(self) -> Json:
        return {"id": self._text.model_name, "object": "model", "created": self._created, "owned_by": "helix-df"}

    def _require_model(self, name: str) -> None:
        if name != self._text.model_name:
            raise RequestError(
                f"The model '{shortened(name)}' does not exist; this server has '{self._text.model_name}'.",
                param="model",
                code="model_not_found",
                status=404,
            )

    def _require_room(self, request: Request) -> None:
        """Refuse before anything is read: under overload, refusals are most of the work."""
        full = self._room.refusal(request.scope.get(KEY_NAME))
        if full is not None:
            raise full

    async def on_error(self, request: Request, error: Exception) -> Response:
        """The answer that says an error."""
        assert isinstance(error, HelixError)
        if isinstance(error, RequestError) and not isinstance(error, LimitReached):
            error = self._room.reworded(error, request.scope.get(KEY_NAME)) or error
        return _refusal(request, error)

    def _require_ready(self) -> TokenLimits:
        status = self._text.snapshot()
        if not status.ready and status.state != "degraded":  # who comes then waits for the nodes that are away
            raise RequestError(f"The job is not ready: {why_not_ready(status)}", code="not_ready", status=503)
        return self._text.limits(status)


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
    """Lets those in who have a key, as far as its limits go. ``/health`` is for everybody."""

    def __init__(self, app: ASGIApp, keys: KeyRing) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Who controls the job proves it by its secret, not by a key.
        if scope["type"] != "http" or scope["path"] == "/health" or scope["path"].startswith(f"{CONTROL}/"):
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        begun = False
        try:
            key = self._keys.find(request.headers.get("authorization", ""))
            scope[KEY_NAME] = key.name
            if scope["method"] == "POST":
                with self._keys.counted(key):
                    begun = True
                    await self._app(scope, receive, send)
                return
        except RequestError as error:
            if begun:
                raise
            await _refusal(request, error)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _endpoint(path: str) -> str:
    return path.partition("/{")[0]


def _refusal(request: Request, error: HelixError) -> Response:
    status, body = describe(error)
    if status >= 500 and status not in (503, 504):
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    headers = {}
    if status in (429, 503):
        headers["Retry-After"] = whole_seconds(error.retry_after_s) if isinstance(error, LimitReached) else "1"
    elif status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body, status_code=status, headers=headers)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = {
        404: f"Unknown URL: {request.method} {request.url.path}",
        405: f"Not allowed: {request.method} on {request.url.path}",
    }.get(error.status_code, error.detail)
    code = {404: "unknown_url", 405: "method_not_allowed"}.get(error.status_code)
    return JSONResponse(
        error_body(error.status_code, message, code=code), status_code=error.status_code, headers=error.headers
    )


async def _on_disconnect(_request: Request, _error: Exception) -> Response:
    return _Nothing()


async def _on_error(_request: Request, _error: Exception) -> Response:
    return JSONResponse(error_body(500, "The server had an error; its log says which."), status_code=500)


class _Nothing(Response):
    """No answer: nobody is there to read it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        return
