"""The OpenAI-compatible HTTP API of one job, with its health, status and metrics.

Owns routes, HTTP statuses and the flow of a request: read, check, prepare, generate, answer. Doesn't know how text is
generated (``generation``) or phrased (``answers``).
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from helix_df.errors import HelixError, RequestError
from helix_df.runtime.api.answers import (
    ChatDialect,
    Choice,
    CompletionDialect,
    Dialect,
    Envelope,
    Json,
    describe,
    error_body,
    public_status,
    usage,
    why_not_ready,
    with_token_ids,
)
from helix_df.runtime.api.bodies import Body, ChatBody, CompletionBody, shortened
from helix_df.runtime.api.connections import Crowd
from helix_df.runtime.api.generation import Chat, Prepared, TextPiece, TextRequest, TextService, TokenLimits, merge
from helix_df.runtime.api.metrics import CONTENT_TYPE, Metrics
from helix_df.runtime.api.openapi import docs_page, openapi_document
from helix_df.runtime.api.parsing import BodyReader
from helix_df.runtime.api.stream import EventStream, until_disconnect

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 4 * 2**20
CLIENT_LEFT = 499
RETRY_AFTER_S = "1"


def create_app(
    text: TextService, *, created: int | None = None, max_body_bytes: int = MAX_BODY_BYTES, crowd: Crowd | None = None
) -> Starlette:
    """The HTTP application of a job.

    Args:
        text: what answers.
        created: when the model went up, in Unix seconds; now by default.
        max_body_bytes: of the largest body that is read.
        crowd: the connections of its server, for the metrics.
    """
    metrics = Metrics(text.snapshot, crowd)
    api = _Api(text, metrics, int(time.time()) if created is None else created, max_body_bytes)
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
    ]
    app = Starlette(
        routes=routes,
        exception_handlers={
            HelixError: _on_helix_error,
            HTTPException: _on_http_error,
            ClientDisconnect: _on_disconnect,
            Exception: _on_error,
        },
    )
    app.add_middleware(_Counted, metrics=metrics, endpoints=frozenset(_endpoint(route.path) for route in routes))
    return app


@dataclass(frozen=True, slots=True)
class _Asked:
    """A checked request on its way: its prompts (each is answered ``n`` times), and how to phrase the answer."""

    body: Body
    prompts: tuple[Prepared, ...]
    echoes: list[str]
    dialect: Dialect
    envelope: Envelope

    @property
    def prompt_tokens(self) -> int:
        return sum(len(prompt.prompt) for prompt in self.prompts)

    def cached_tokens(self, by_choice: Sequence[int]) -> int:
        """Tokens of the prompts that no answer had to compute, as each prompt counts once however many answers."""
        times = self.body.n
        return sum(min(by_choice[at : at + times]) for at in range(0, len(by_choice), times))

    @property
    def wants_logprobs(self) -> bool:
        return self.prompts[0].sampling.logprobs is not None


class _Api:
    """The endpoints."""

    def __init__(self, text: TextService, metrics: Metrics, created: int, max_body_bytes: int) -> None:
        self._text = text
        self._metrics = metrics
        self._created = created
        self._bodies = BodyReader(max_body_bytes)

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
        return JSONResponse(openapi_document(self._text.model_name))

    async def docs(self, request: Request) -> Response:
        return HTMLResponse(docs_page(openapi_document(self._text.model_name)))

    async def completions(self, request: Request) -> Response:
        body = await self._bodies.read(CompletionBody, request)
        asked = await self._ask(body, CompletionDialect(), echo=body.echo)
        return await self._answer(request, asked)

    async def chat(self, request: Request) -> Response:
        body = await self._bodies.read(ChatBody, request)
        return await self._answer(request, await self._ask(body, ChatDialect()))

    async def _ask(self, body: Body, dialect: Dialect, echo: bool = False) -> _Asked:
        self._require_model(body.model)
        limits = self._require_ready()
        # Tokenizing a long prompt takes a while: others' tokens must go on flowing.
        requests, prompts = await asyncio.to_thread(self._prepare, body, limits)
        envelope = Envelope(f"{dialect.prefix}-{uuid.uuid4().hex}", int(time.time()), self._text.model_name)
        echoes = [self._echo(item) if echo else "" for item in requests for _ in range(body.n)]
        return _Asked(body, prompts, echoes, dialect, envelope)

    def _prepare(self, body: Body, limits: TokenLimits) -> tuple[tuple[TextRequest, ...], tuple[Prepared, ...]]:
        requests = body.requests()
        return requests, tuple(self._text.prepare(item, limits) for item in requests)

    async def _answer(self, request: Request, asked: _Asked) -> Response:
        if asked.body.stream:
            return EventStream(self._chunks(asked), describe)
        return JSONResponse(await until_disconnect(request.receive, self._whole(asked)))

    async def _whole(self, asked: _Asked) -> Json:
        choices = [Choice() for _ in asked.echoes]
        async with aclosing(self._pieces(asked)) as pieces:
            async for index, piece in pieces:
                choices[index].add(piece)
        answer = asked.dialect.whole(asked.envelope, choices, asked.echoes, asked.wants_logprobs)
        if asked.body.return_token_ids:
            with_token_ids(answer, [choice.token_ids for choice in choices])
        cached = asked.cached_tokens([choice.cached_tokens for choice in choices])
        answer["usage"] = usage(asked.prompt_tokens, sum(len(choice.token_ids) for choice in choices), cached)
        return answer

    async def _chunks(self, asked: _Asked) -> AsyncGenerator[Json, None]:
        dialect, envelope = asked.dialect, asked.envelope
        # Every chunk has a usage then, null in all but the last.
        extra: Json = {"usage": None} if asked.body.includes_usage else {}
        opened = [False] * len(asked.echoes)
        cached = [0] * len(asked.echoes)
        generated = 0
        async with aclosing(self._pieces(asked)) as pieces:
            async for index, piece in pieces:
                if not opened[index]:
                    opened[index] = True
                    opening = dialect.opening(envelope, index, asked.echoes[index])
                    if opening is not None:
                        yield opening | extra
                generated += len(piece.token_ids)
                cached[index] += piece.cached_tokens
                ids = piece.token_ids if asked.body.return_token_ids else ()
                if piece.text or piece.logprobs or ids or piece.finish_reason is not None:
                    chunk = dialect.chunk(envelope, index, piece) | extra
                    yield with_token_ids(chunk, [ids]) if asked.body.return_token_ids else chunk
        if asked.body.includes_usage:
            used = usage(asked.prompt_tokens, generated, asked.cached_tokens(cached))
            yield dialect.closing(envelope) | {"usage": used}

    def _pieces(self, asked: _Asked) -> AsyncGenerator[tuple[int, TextPiece], None]:
        """The answers to every prompt, ``n`` each, in the order of OpenAI's choice indices."""
        streams: list[AsyncGenerator[TextPiece, None]] = []
        for prompt in asked.prompts:
            for sample in range(asked.body.n):
                request_id = f"{asked.envelope.id}-{len(streams)}"
                streams.append(self._metrics.timed(self._text.stream(prompt, request_id, sample)))
        return merge(streams)

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
        endpoint = "/v1/models" if path.startswith("/v1/models/") else path
        try:
            await self._app(scope, receive, noting)
        except Exception:
            status = 500
            raise
        finally:
            self._metrics.count_request(endpoint if endpoint in self._endpoints else "other", status)


def _endpoint(path: str) -> str:
    return path.partition("/{")[0]


async def _on_helix_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HelixError)
    status, body = describe(error)
    if status >= 500 and status != 503:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    headers = {"Retry-After": RETRY_AFTER_S} if status in (429, 503) else None
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
