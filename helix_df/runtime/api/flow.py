"""The way from a checked body to an answer, which all endpoints that generate share: check, prepare, generate, phrase.

Doesn't know paths, or how answers are phrased.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from helix_df.errors import RequestError
from helix_df.runtime.api.answering import Form, Pieces, chunks, only_whole, the_only
from helix_df.runtime.api.answers import Json, describe, why_not_ready
from helix_df.runtime.api.bodies import Body
from helix_df.runtime.api.generation import Prepared, TextRequest, TextService, TokenLimits, merge
from helix_df.runtime.api.metrics import Metrics
from helix_df.runtime.api.overload import QueueRoom
from helix_df.runtime.api.prompts import Chat
from helix_df.runtime.api.reconnect import KEY_NAME, NAME_HEADER, Reconnects
from helix_df.runtime.api.refusals import MAX_NAMED, shortened
from helix_df.runtime.api.stream import EventStream, until_disconnect
from helix_df.runtime.api.text_pieces import TextPiece
from helix_df.runtime.api.timeouts import timeout_of
from helix_df.runtime.api.traced import TRACE_NAME
from helix_df.runtime.requests import GenerationRequest

IGNORED_HEADER = "X-Helix-Ignored"
"""Of an answer: the parameters of its request that nothing was made of."""


POOLED_AT_ONCE = 16
"""Prompts of one body that are computed together."""


class Asking(Protocol):
    """What a body says that asks for text."""

    @property
    def model(self) -> str:
        """The name of the model that is asked."""
        ...

    @property
    def timeout(self) -> float | None:
        """Seconds that all of the answer may take."""
        ...

    def requests(self) -> tuple[TextRequest, ...]:
        """One request for each prompt."""
        ...


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


class AnswerFlow:
    """Answers requests of one job.

    Args:
        text: what answers.
        metrics: where latencies are observed.
        room: whether the queue takes more.
        reconnects: answers that outlive a connection; none do if None.
    """

    def __init__(self, text: TextService, metrics: Metrics, room: QueueRoom, reconnects: Reconnects | None) -> None:
        self.text = text
        self._metrics = metrics
        self._room = room
        self._reconnects = reconnects

    def require_model(self, name: str) -> None:
        """Refuse the name of another model."""
        if name != self.text.model_name:
            raise RequestError(
                f"The model '{shortened(name)}' does not exist; this server has '{self.text.model_name}'.",
                param="model",
                code="model_not_found",
                status=404,
            )

    def require_room(self, request: Request) -> None:
        """Refuse before anything is read: under overload, refusals are most of the work."""
        full = self._room.refusal(request.scope.get(KEY_NAME))
        if full is not None:
            raise full

    async def prepared(self, request: Request, body: Asking) -> tuple[tuple[TextRequest, ...], tuple[Prepared, ...]]:
        """The requests of a body, and what is made of them.

        Raises:
            RequestError: for another model, while the job isn't ready, or when one can't be served as asked.
        """
        self.require_model(body.model)
        limits = self._require_ready()
        # Tokenizing a long prompt takes a while: others' tokens must go on flowing.
        requests, prompts = await asyncio.to_thread(self._prepare, body, limits)
        owner = request.scope.get(KEY_NAME)
        timeout_s = timeout_of(request.headers, body.timeout)
        span = request.scope.get(TRACE_NAME)
        return requests, tuple(replace(one, timeout_s=timeout_s, owner=owner, traceparent=span) for one in prompts)

    def pieces(self, prompts: tuple[Prepared, ...], answer: str, n: int = 1) -> Pieces:
        """The answers to every prompt, ``n`` each, in the order of OpenAI's choice indices."""
        streams: list[AsyncGenerator[TextPiece, None]] = []
        for prompt in prompts:
            for sample in range(n):
                pieces = self.text.stream(prompt, f"{answer}-{len(streams)}", sample)
                streams.append(self._drained(self._metrics.timed(pieces, len(prompt.prompt), prompt.max_tokens)))
        return merge(streams)

    async def pooled(self, prompts: tuple[Prepared, ...], answer: str) -> list[np.ndarray]:
        """float32 [hidden] of each prompt, ``POOLED_AT_ONCE`` of which wait at a time: the queue is for others, too."""
        free = asyncio.Semaphore(POOLED_AT_ONCE)

        async def one(index: int, prompt: Prepared) -> np.ndarray:
            async with free:
                vector = await self.text.pooled(prompt, f"{answer}-{index}")
            self._room.drain.note()
            return vector

        tasks = [asyncio.create_task(one(index, prompt)) for index, prompt in enumerate(prompts)]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def answer(self, request: Request, body: Body, dialect: str, *, echo: bool = False) -> Response:
        """The answer to one of OpenAI's bodies, whole or as a stream."""
        asked = await self._ask(request, body, dialect, echo)
        documents, headers = self._documents(asked), ignored_headers(body.ignored)
        if asked.form.stream:
            # Only for who may come back: clients that read events by hand often know lines of data alone.
            return EventStream(documents, describe, headers=headers, places=NAME_HEADER in request.headers)
        return JSONResponse(await until_disconnect(request.receive, the_only(documents)), headers=headers)

    async def _ask(self, request: Request, body: Body, dialect: str, echo: bool) -> _Asked:
        requests, prompts = await self.prepared(request, body)
        form = Form(
            dialect=dialect,
            id=f"{dialect}-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=self.text.model_name,
            n=body.drawn,
            best=body.n if body.drawn > body.n else None,
            stream=body.stream,
            includes_usage=body.includes_usage,
            counts_on=body.counts_on,
            return_token_ids=body.return_token_ids,
            wants_logprobs=body.wants_logprobs,
            echoes=tuple(self._echo(item) if echo else "" for item in requests for _ in range(body.drawn)),
            stops=tuple(prompt.stop for prompt in prompts),
            prompt_tokens=tuple(len(prompt.prompt) for prompt in prompts),
            echoes_scores=echo and body.wants_logprobs,
            tells_scores=body.prompt_logprobs is not None,
            owner=request.scope.get(KEY_NAME),
            reading=prompts[0].reading,
        )
        name = None if self._reconnects is None else await self._reconnects.name_of(request)
        return _Asked(prompts, form, name)

    def _prepare(self, body: Asking, limits: TokenLimits) -> tuple[tuple[TextRequest, ...], tuple[Prepared, ...]]:
        requests = body.requests()
        return requests, tuple(self.text.prepare(item, limits) for item in requests)

    def _documents(self, asked: _Asked) -> AsyncGenerator[Json, None]:
        """The answer in chunks, or whole; kept from now on, if anybody keeps answers."""
        form, pieces = asked.form, self.pieces(asked.prompts, asked.form.id, asked.form.n)
        documents = (
            chunks(form, pieces, numbered=self._reconnects is not None) if form.stream else only_whole(form, pieces)
        )
        if self._reconnects is None:
            return documents
        return self._reconnects.keep(form, asked.requests(self.text), asked.name, documents)

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
                return self.text.decode(token_ids)
            case Chat():
                return ""

    def _require_ready(self) -> TokenLimits:
        status = self.text.snapshot()
        if not status.ready and status.state != "degraded":  # who comes then waits for the nodes that are away
            raise RequestError(f"The job is not ready: {why_not_ready(status)}", code="not_ready", status=503)
        return self.text.limits(status)


def ignored_headers(names: tuple[str, ...]) -> Mapping[str, str]:
    """The header that names what nothing was made of, if there is anything."""
    readable = [name for name in names if name.isascii() and name.isprintable() and len(name) <= MAX_NAMED * 3]
    return {IGNORED_HEADER: ", ".join(readable[:MAX_NAMED])} if readable else {}
