"""Answers that outlive their client's connection and their coordinator: what goes on by itself, and who reads it.

An answer is read by one client at a time. One that a former coordinator had accepted goes on here with nobody reading,
until it is finished; whoever asks for it by its name gets what follows on what it has, and waits for the rest. Owns the
names and who is connected. Doesn't know files or workers.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from helix_df.errors import HelixError, RequestError
from helix_df.models.streaming_text import StopRule
from helix_df.runtime.api.answering import Form, Pieces, Place, chunks, only_whole, read_cursor, the_only
from helix_df.runtime.api.answers import Json, describe
from helix_df.runtime.api.generation import TextService, merge
from helix_df.runtime.api.stream import EventStream, until_disconnect
from helix_df.runtime.api.text_pieces import TextPiece
from helix_df.runtime.kept_answers import AcceptedAnswer, AnswerKeeper, KeptAnswer, KeptRequest
from helix_df.runtime.log_lines import fields
from helix_df.runtime.requests import GenerationRequest, TokenEvent

log = logging.getLogger(__name__)

NAME_HEADER = "X-Helix-Request-Id"
"""What a client calls its request, so that it can ask for the answer though it never heard a word of it."""

KEY_NAME = "helix_df.api_key"
"""Where a request's scope has the name of its API key."""

NAME_PATTERN = r"[A-Za-z0-9._:-]{1,128}"
_NAME = re.compile(NAME_PATTERN)


@dataclass(slots=True)
class _Growing:
    """One choice as it grows, for any number of readers."""

    kept: KeptRequest
    events: list[TokenEvent] = field(default_factory=list)
    error: HelixError | None = None
    over: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self) -> None:
        self.news.set()
        self.news = asyncio.Event()

    async def read(self) -> AsyncGenerator[TokenEvent, None]:
        at = 0
        while True:
            news = self.news
            while at < len(self.events):
                at += 1
                yield self.events[at - 1]
            if self.error is not None:
                raise self.error
            if self.over:
                return
            await news.wait()


class Reconnects:
    """The answers of a job that are kept.

    Args:
        text: makes text of tokens.
        keeper: keeps them.
    """

    def __init__(self, text: TextService, keeper: AnswerKeeper) -> None:
        self._text = text
        self._keeper = keeper
        self._connected: set[str] = set()
        self._names: set[str] = set()
        self._growing: dict[str, list[_Growing]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------------ new ones

    async def name_of(self, request: Request) -> str | None:
        """What a client calls its request, if it calls it anything.

        Raises:
            RequestError: when that isn't a name, or another request has it.
        """
        name = request.headers.get(NAME_HEADER)
        if name is None:
            return None
        if not _NAME.fullmatch(name):
            raise RequestError(
                f"{NAME_HEADER} isn't a name",
                param=NAME_HEADER,
                code="invalid_value",
                expected="1 to 128 letters, digits, dots, colons, dashes or underscores",
            )
        if name in self._names:
            raise _taken(name)
        self._names.add(name)  # until the journal has it, and for as long as its client is there
        try:
            if await self._keeper.find(name) is not None:
                raise _taken(name)
        except BaseException:
            self._names.discard(name)
            raise
        return name

    async def keep(
        self, form: Form, requests: Sequence[GenerationRequest], name: str | None, documents: AsyncGenerator[Json, None]
    ) -> AsyncGenerator[Json, None]:
        """The same documents, of an answer that is kept from now on; one that is refused before the first is not."""
        answer, began = form.id, False
        self._keeper.accept(AcceptedAnswer(answer, form.dump(), tuple(requests), name))
        written = asyncio.create_task(self._keeper.written())
        self._connected.add(answer)
        try:
            async with aclosing(documents):
                async for document in documents:
                    if not began:  # a client that has a word of it finds it again
                        await written
                    began = True
                    yield document
        except HelixError:
            if not began:
                self._keeper.refuse(answer)
            raise
        finally:
            written.cancel()
            self._connected.discard(answer)
            self._names.discard(name or "")

    # ------------------------------------------------------------------ those of a former coordinator

    def go_on(self) -> None:
        """Let those go on that aren't over."""
        for answer in self._keeper.left:
            if answer.is_over:
                continue
            form = Form.load(answer.form)
            self._growing[answer.id] = [_Growing(request) for request in answer.requests]
            task = asyncio.create_task(self._run(answer.id, form, self._growing[answer.id]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            log.info("answer %s goes on", answer.id, extra=fields(subject=answer.id))

    async def close(self) -> None:
        """Give up what still goes on."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, answer: str, form: Form, growing: list[_Growing]) -> None:
        await asyncio.gather(*(self._grow(one, form, form.stop_of(index)) for index, one in enumerate(growing)))
        del self._growing[answer]  # from now on the keeper has all of it

    async def _grow(self, growing: _Growing, form: Form, stop: StopRule) -> None:
        """Run a choice to its end, which a stop string may be, too, or a call."""
        try:
            async with aclosing(self._text.read(self._fed(growing), stop, reading=form.reading)) as pieces:
                async for _ in pieces:
                    pass
        except HelixError as error:
            growing.error = error
        finally:
            growing.over = True
            growing.tell()

    async def _fed(self, growing: _Growing) -> AsyncGenerator[TokenEvent, None]:
        kept = growing.kept
        for event in kept.events:
            growing.events.append(event)
            growing.tell()
            yield event
        if kept.broken_off is not None:
            raise kept.broken_off.error()
        if kept.is_over:
            return
        async with aclosing(self._keeper.go_on(kept)) as events:
            async for event in events:
                growing.events.append(event)
                growing.tell()
                yield event

    # ------------------------------------------------------------------ readers

    async def get(self, request: Request) -> Response:
        """``GET /helix/requests/{id}``: what follows on what a client has, in the form in which it was asked for.

        Raises:
            RequestError: 404 for a name that nobody knows any more, 409 while another client reads the answer, 400 for
                a place that it doesn't have.
        """
        name = request.path_params["id"]
        kept = await self._keeper.find(name)
        if kept is None or Form.load(kept.form).owner != request.scope.get(KEY_NAME):
            raise RequestError(
                "there is no such request, or it is over for too long", code="request_not_found", status=404
            )
        form = Form.load(kept.form)
        cursor = request.headers.get("Last-Event-ID", request.query_params.get("after"))
        places = None if cursor is None else read_cursor(cursor, len(kept.requests))
        if kept.id in self._connected:
            raise RequestError("another client is connected to this request", code="request_connected", status=409)
        pieces = self._pieces(kept, form, places if form.stream else None)
        if not form.stream:
            documents = self._reading(kept.id, only_whole(form, pieces))
            return JSONResponse(await until_disconnect(request.receive, the_only(documents)))
        cached = [sum(event.cached_tokens for event in one.events) for one in kept.requests]
        known = [count if place.tokens else 0 for count, place in zip(cached, places, strict=True)] if places else ()
        documents = chunks(form, pieces, places, numbered=True, cached=known)
        return EventStream(self._reading(kept.id, documents), describe)

    def _pieces(self, kept: KeptAnswer, form: Form, places: Sequence[Place] | None) -> Pieces:
        growing = self._growing.get(kept.id)
        streams: list[AsyncGenerator[TextPiece, None]] = []
        for index, one in enumerate(kept.requests):
            place = Place() if places is None else places[index]
            events = growing[index].read() if growing is not None else _recorded(one)
            stop, have = form.stop_of(index), place.tokens or 0
            prompt = one.asked.prompt
            streams.append(_none() if place.ended else self._text.read(events, stop, have, form.reading, prompt))
        return merge(streams)

    async def _reading(self, answer: str, documents: AsyncGenerator[Json, None]) -> AsyncGenerator[Json, None]:
        if answer in self._connected:
            raise RequestError("another client is connected to this request", code="request_connected", status=409)
        self._connected.add(answer)
        try:
            async with aclosing(documents):
                async for document in documents:
                    yield document
        finally:
            self._connected.discard(answer)


def _taken(name: str) -> RequestError:
    return RequestError(
        f"there is a request of this name; GET /helix/requests/{name} has its answer",
        param=NAME_HEADER,
        code="request_exists",
        status=409,
    )


async def _recorded(kept: KeptRequest) -> AsyncGenerator[TokenEvent, None]:
    for event in kept.events:
        yield event
    if kept.broken_off is not None:
        raise kept.broken_off.error()
    if not kept.is_over:
        raise RequestError("its client left before it was finished", code="request_cancelled", status=410)


async def _none() -> AsyncGenerator[TextPiece, None]:
    return
    yield
