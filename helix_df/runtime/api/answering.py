"""From the pieces of an answer to its body, whole or in chunks; also of an answer whose beginning a client has already.

Where a client is in a stream is its cursor: the tokens it has of each choice, ``12,7``; ``-`` for a choice that isn't
opened yet, and an ``e`` behind the tokens of one that has ended. Doesn't know HTTP or where pieces come from.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass

from helix_df.errors import RequestError
from helix_df.models.streaming_text import StopRule
from helix_df.runtime.api.answer_reading import AnswerReading
from helix_df.runtime.api.answers import (
    ChatDialect,
    Choice,
    CompletionDialect,
    Dialect,
    Envelope,
    Json,
    usage,
    with_prompt_logprobs,
    with_token_ids,
)
from helix_df.runtime.api.prompt_scores import as_vllm_has_them
from helix_df.runtime.api.stream import EVENT_ID
from helix_df.runtime.api.text_pieces import TextPiece

DIALECTS: dict[str, type[ChatDialect] | type[CompletionDialect]] = {
    one.prefix: one for one in (ChatDialect, CompletionDialect)
}
_COUNT = re.compile(r"(?:-|(?P<tokens>[0-9]{1,9})(?P<ended>e?))")

Pieces = AsyncGenerator[tuple[int, TextPiece], None]
"""Of several choices as they come, each with the index of its choice."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a client is in one choice: ``tokens`` are None before it is opened."""

    tokens: int | None = None
    ended: bool = False

    def __str__(self) -> str:
        return "-" if self.tokens is None else f"{self.tokens}{'e' if self.ended else ''}"

    def after(self, piece: TextPiece) -> Place:
        """Where it is once it has one piece more."""
        return Place((self.tokens or 0) + len(piece.token_ids), piece.finish_reason is not None)


def read_cursor(text: str, choices: int) -> list[Place]:
    """The places that a cursor tells.

    Raises:
        RequestError: when it isn't one of an answer of so many choices.
    """
    found = [one for one in map(_COUNT.fullmatch, text.split(",")) if one is not None]
    if not len(found) == choices == text.count(",") + 1:
        raise RequestError(
            "this is no place in the answer's stream",
            param="Last-Event-ID",
            code="invalid_value",
            found=text[:100],
            expected=f"the `id` of an event of this stream, which has {choices} choices",
        )
    return [Place(None if one["tokens"] is None else int(one["tokens"]), one["ended"] == "e") for one in found]


@dataclass(frozen=True, slots=True)
class Form:
    """How an answer is phrased: what its request said of that, and what every body of it repeats.

    ``echoes`` has an entry a choice; ``stops`` and ``prompt_tokens`` have one a prompt, each of which is answered ``n``
    times. ``owner`` is the API key that it was asked with, by which alone it can be asked for again. ``reading`` is how
    the answer to a chat is read for calls and thoughts. With ``counts_on`` every chunk has the usage so far.
    With ``echoes_scores`` log-probabilities
    begin with those of the prompt, with ``tells_scores`` the prompt's have a field of their own, as in vLLM.
    Of the answers to a prompt only the ``best`` are told, the likeliest first, if that is given.
    """

    dialect: str
    id: str
    created: int
    model: str
    n: int
    stream: bool
    includes_usage: bool
    return_token_ids: bool
    wants_logprobs: bool
    echoes: tuple[str, ...]
    stops: tuple[StopRule, ...]
    prompt_tokens: tuple[int, ...]
    owner: str | None = None
    reading: AnswerReading | None = None
    counts_on: bool = False
    best: int | None = None
    echoes_scores: bool = False
    tells_scores: bool = False

    @property
    def envelope(self) -> Envelope:
        """What every body repeats."""
        return Envelope(self.id, self.created, self.model)

    @property
    def phrases(self) -> Dialect:
        """The words of its endpoint."""
        return DIALECTS[self.dialect]()

    def stop_of(self, choice: int) -> StopRule:
        """What ends a choice."""
        return self.stops[choice // self.n]

    def told(self, choices: Sequence[Choice]) -> list[int]:
        """The choices that are told: all, or of each prompt the best, by their mean log-probability a token."""
        if self.best is None:
            return list(range(len(choices)))
        prompts = (range(at, at + self.n) for at in range(0, len(choices), self.n))
        return [
            index
            for own in prompts
            for index in sorted(own, key=lambda index: -choices[index].mean_logprob)[: self.best]
        ]

    def cached_tokens(self, by_choice: Sequence[int]) -> int:
        """Tokens of the prompts that no answer had to compute, as each prompt counts once however many answers."""
        return sum(min(by_choice[at : at + self.n]) for at in range(0, len(by_choice), self.n))

    def dump(self) -> str:
        """As a journal keeps it."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def load(cls, text: str) -> Form:
        """What ``dump`` wrote."""
        fields = json.loads(text)
        fields["stops"] = tuple(StopRule(**{**one, "texts": tuple(one["texts"])}) for one in fields["stops"])
        if fields.get("reading") is not None:
            fields["reading"] = AnswerReading.load(fields["reading"])
        return cls(**{**fields, "echoes": tuple(fields["echoes"]), "prompt_tokens": tuple(fields["prompt_tokens"])})


async def whole(form: Form, pieces: Pieces) -> Json:
    """The body of an answer, once it is finished."""
    choices = [Choice() for _ in form.echoes]
    async with aclosing(pieces):
        async for index, piece in pieces:
            choices[index].add(piece)
    told = [choices[index] for index in form.told(choices)]
    echoes = [form.echoes[index] for index in form.told(choices)]
    if form.echoes_scores:
        for choice in told:
            choice.echoed = choice.prompt
    answer = form.phrases.whole(form.envelope, told, echoes, form.wants_logprobs)
    if form.return_token_ids:
        with_token_ids(answer, [choice.token_ids for choice in told])
    if form.tells_scores:
        answer = with_prompt_logprobs(answer, [as_vllm_has_them(choice.prompt) for choice in told])
    cached = form.cached_tokens([choice.cached_tokens for choice in choices])
    answer["usage"] = usage(sum(form.prompt_tokens), sum(len(choice.token_ids) for choice in choices), cached)
    return answer


async def chunks(
    form: Form,
    pieces: Pieces,
    places: Sequence[Place] | None = None,
    *,
    numbered: bool = False,
    cached: Sequence[int] = (),
) -> AsyncGenerator[Json, None]:
    """The chunks of an answer that follow on ``places``, from its beginning if None.

    Args:
        form: how it is phrased.
        pieces: that follow on ``places``.
        places: where the client is in each choice.
        numbered: whether chunks carry their cursor.
        cached: tokens of the prompt, by choice, that were in KV cache, of choices whose first piece isn't among these.
    """
    dialect, envelope = form.phrases, form.envelope
    at = list(places) if places is not None else [Place()] * len(form.echoes)
    known = list(cached) or [0] * len(at)
    # Every chunk has a usage then, null in all but the last.
    extra: Json = {"usage": None} if form.includes_usage else {}

    def used() -> Json:
        generated = sum(place.tokens or 0 for place in at)
        return usage(sum(form.prompt_tokens), generated, form.cached_tokens(known))

    def marked(chunk: Json) -> Json:
        if form.counts_on:
            extra["usage"] = used()
        return {**chunk, **extra, EVENT_ID: ",".join(map(str, at))} if numbered else chunk | extra

    async with aclosing(pieces):
        async for index, piece in pieces:
            if at[index].tokens is None:
                at[index] = Place(0)
                opening = dialect.opening(envelope, index, form.echoes[index])
                if opening is not None:
                    yield marked(opening)
            at[index] = at[index].after(piece)
            known[index] += piece.cached_tokens
            ids = piece.token_ids if form.return_token_ids else ()
            if piece.told or piece.logprobs or ids or piece.finish_reason is not None:
                chunk = marked(dialect.chunk(envelope, index, piece))
                yield with_token_ids(chunk, [ids]) if form.return_token_ids else chunk
    if form.includes_usage:
        yield marked(dialect.closing(envelope)) | {"usage": used()}


async def only_whole(form: Form, pieces: Pieces) -> AsyncGenerator[Json, None]:
    """The body of an answer, as the only document of a stream."""
    yield await whole(form, pieces)


async def the_only(documents: AsyncGenerator[Json, None]) -> Json:
    """The only document of a stream, which is closed."""
    async with aclosing(documents):
        return await anext(documents)
