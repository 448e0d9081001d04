"""Text in, text out, on top of a service that speaks tokens.

Owns the way from a prompt to token ids, the context limit, stop strings and the pieces of an answer. Doesn't know HTTP,
routes or workers.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from helix_df.errors import ProtocolError, RequestError
from helix_df.models.answer_formats.chain import AnswerFormats
from helix_df.models.streaming_text import StopRule
from helix_df.runtime.api.answer_reading import (
    AnswerReading,
    PartsReader,
    formats_for,
    formats_of,
)
from helix_df.runtime.api.prompt_scores import prompt_tokens
from helix_df.runtime.api.prompts import Chat, Prompt, PromptEncoder, too_long
from helix_df.runtime.api.shaping import MAX_STOPS, PLAINLY, Wishes, shaping_in_tokens
from helix_df.runtime.api.structured import FieldConstraint
from helix_df.runtime.api.text_pieces import TextDecoder, TextPiece
from helix_df.runtime.grammars import Grammars
from helix_df.runtime.requests import (
    GenerationRequest,
    JobStatus,
    TokenEvent,
    TokenService,
)
from helix_df.runtime.sampling import Pooling, SamplingParams

if TYPE_CHECKING:
    from helix_df.models.tokenizer import Tokenizer


_SEEDS = 2**32


@dataclass(frozen=True, slots=True)
class TextRequest:
    """What a user asks for: a prompt as text, as token ids or as a chat, and how to continue it. ``field`` of the body
    had it, by default the one of OpenAI's completions or chats.

    ``max_tokens`` None is all that the context has left. ``logprobs`` asks for the chosen token's log-probability and
    those of that many likeliest ones, ``prompt_logprobs`` for those of the prompt. ``ignore_eos`` goes on past the
    model's end of text, for benchmarks. The whole answer keeps to ``constraint``, if there is one, and ends only where
    that allows it. ``pooling`` asks for hidden states instead of an answer (``TextService.pooled``).
    """

    prompt: Prompt
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    logprobs: int | None = None
    ignore_eos: bool = False
    prompt_logprobs: int | None = None
    constraint: FieldConstraint | None = None
    wishes: Wishes = PLAINLY
    pooling: Pooling | None = None
    field: str | None = None


@dataclass(frozen=True, slots=True)
class TokenLimits:
    """Tokens that prompt and answer may have together, and that fit in the KV cache of any pipeline, whichever way."""

    context: int
    smallest_kv: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that was found servable: the prompt's token ids, the most tokens to generate, how to draw them, and the
    seconds that its answer may take, if that was said; and the name of its API key, if it came with one. ``reading``
    is how the answer to a chat is read for calls and thoughts. ``traceparent`` is of the span that it is a part of."""

    prompt: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParams
    stop: StopRule
    stop_ids: frozenset[int]
    timeout_s: float | None = None
    owner: str | None = None
    reading: AnswerReading | None = None
    tells_stop: bool = False
    traceparent: str | None = None


class TextService:
    """Generates text with a token service and a tokenizer.

    Args:
        service: what generates tokens.
        tokenizer: of the model that it runs.
        model_name: what requests call the model.
        context: tokens that prompt and answer may have together.
        draw_seed: gives the seed of a request that names none, 0 to 2**32 - 1.
        formats: of the calls and thoughts in answers to chats; by default those that the chat template is of.
    """

    def __init__(
        self,
        service: TokenService,
        tokenizer: Tokenizer,
        *,
        model_name: str,
        context: int,
        draw_seed: Callable[[], int] = lambda: secrets.randbelow(_SEEDS),
        formats: AnswerFormats | None = None,
    ) -> None:
        self.model_name = model_name
        self.context = context
        self._service = service
        self._tokenizer = tokenizer
        self._draw_seed = draw_seed
        self._formats = formats_of(tokenizer.chat.source) if formats is None else formats
        self._prompts = PromptEncoder(tokenizer, self._formats, context)
        self._grammars = Grammars(lambda: tokenizer)

    def snapshot(self) -> JobStatus:
        """The job at this moment."""
        return self._service.snapshot()

    def waiting(self, owner: str | None = None) -> int:
        """See ``TokenService``."""
        return self._service.waiting(owner)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids."""
        return self._tokenizer.decode(token_ids)

    def decode_checked(self, token_ids: tuple[int, ...], field: str) -> str:
        """The text of token ids that a client sent.

        Raises:
            RequestError: when the model doesn't know one, or there are more than its context has.
        """
        if len(token_ids) > self.context:
            raise RequestError(
                f"{field} has too many", param=field, found=str(len(token_ids)), expected=f"{self.context} at most"
            )
        self._prompts.check_ids(token_ids, field)
        return self.decode(token_ids)

    def tokenize(self, prompt: Prompt, *, begins: bool = True) -> tuple[int, ...]:
        """The ids of a prompt; without its first special token, if a text isn't to have it. Runs in any thread.

        Raises:
            RequestError: as ``prepare``, but for the room that an answer needs.
        """
        field = "messages" if isinstance(prompt, Chat) else "prompt"
        return self._prompts.encode(prompt, field, begins=begins)[0]

    def limits(self, status: JobStatus | None = None) -> TokenLimits:
        """What requests may come to at this moment; ``status`` is the job's, if it is known already."""
        ready = [node for node in (status or self.snapshot()).nodes if node.state == "ready"]
        return TokenLimits(self.context, min((node.kv_capacity_tokens for node in ready), default=self.context))

    def prepare(self, request: TextRequest, limits: TokenLimits) -> Prepared:
        """Tokenize and check a request, without sending it anywhere.

        The only method that may run in any thread: it asks the tokenizer, and never the service.

        Raises:
            RequestError: when it can't be served as asked, with the numbers that don't fit.
        """
        _check_stops(request.wishes.stop.texts)
        field = request.field or ("messages" if isinstance(request.prompt, Chat) else "prompt")
        prompt, reading = self._prompts.encode(request.prompt, field)
        if request.constraint is not None and not request.constraint.has_calls:
            reading = None  # the answer is what was asked for, whatever its words mean to the model
        if request.constraint is not None:
            self._check_constraint(request.constraint)
        stop_ids = (frozenset() if request.ignore_eos else self._tokenizer.eos_ids) | set(request.wishes.stop_ids)
        max_tokens = _token_limit(len(prompt), request.max_tokens, field, limits)
        seed = self._draw_seed() if request.seed is None else request.seed
        return Prepared(
            prompt=prompt,
            max_tokens=max_tokens,
            sampling=SamplingParams(
                temperature=request.temperature,
                top_p=request.top_p,
                top_k=request.top_k,
                seed=seed % _SEEDS,
                logprobs=request.logprobs,
                constraint=None if request.constraint is None else request.constraint.constraint,
                prompt_logprobs=request.prompt_logprobs,
                pooling=request.pooling,
                shaping=shaping_in_tokens(request.wishes, self._tokenizer, stop_ids, max_tokens),
            ),
            stop=request.wishes.stop,
            stop_ids=stop_ids,
            tells_stop=request.wishes.stop.included,
            reading=reading,
        )

    async def stream(self, prepared: Prepared, request_id: str, sample: int = 0) -> AsyncGenerator[TextPiece, None]:
        """Stream one answer; closing the stream cancels the request.

        ``sample`` numbers several answers to one prompt; each draws with a seed of its own, sample 0 with the given.

        Raises:
            RequestError: as ``TokenService.submit``.
        """
        events = self._service.submit(self.request(prepared, request_id, sample))
        async with aclosing(
            self.read(events, prepared.stop, reading=prepared.reading, prompt=prepared.prompt)
        ) as pieces:
            async for piece in pieces:
                yield piece

    def request(self, prepared: Prepared, request_id: str, sample: int = 0) -> GenerationRequest:
        """What ``stream`` asks the token service for."""
        return GenerationRequest(
            id=request_id,
            prompt=prepared.prompt,
            max_tokens=prepared.max_tokens,
            sampling=replace(prepared.sampling, seed=(prepared.sampling.seed + sample) % _SEEDS),
            stop_ids=prepared.stop_ids,
            timeout_s=prepared.timeout_s,
            owner=prepared.owner,
            tells_stop=prepared.tells_stop,
            traceparent=prepared.traceparent,
        )

    async def pooled(self, prepared: Prepared, request_id: str) -> np.ndarray:
        """float32 [hidden] of a prompt: what its ``sampling.pooling`` asks for. Cancelling it cancels the request.

        Raises:
            RequestError: as ``TokenService.submit``.
        """
        events = self._service.submit(self.request(prepared, request_id))
        try:
            async for event in events:
                if event.finish is not None:
                    sums = [np.frombuffer(one, "<f4") for one in event.pooled]
                    count = len(prepared.prompt) if prepared.sampling.pooling == "mean" else 1
                    return np.asarray(np.sum(sums, axis=0) / np.float32(count))
        finally:
            await _close(events)
        raise ProtocolError("an answer ended without saying why")

    async def read(
        self,
        events: AsyncIterator[TokenEvent],
        stop: StopRule,
        after: int = 0,
        reading: AnswerReading | None = None,
        prompt: Sequence[int] = (),
    ) -> AsyncGenerator[TextPiece, None]:
        """An answer's pieces that follow on its first ``after`` tokens, from the events of all of it.

        The first has the tokens of its ``prompt``, if that is given and was scored.

        What follows depends on what came before: half a character, the start of a stop string, or of a call. Closes
        ``events``.

        Raises:
            RequestError: when the answer has fewer tokens than that.
        """
        answer = self._decoder(stop, reading)
        left = after
        try:
            async for event in events:
                piece = answer.push(event)
                is_known = left > 0 and bool(piece.token_ids)
                left -= is_known
                if left and piece.finish_reason is not None:
                    raise _fewer_tokens(after, after - left)
                # A client that has an answer's last token need not have heard that it is the last.
                if prompt and event.prompt_scores is not None:
                    piece = replace(piece, prompt=prompt_tokens(self._tokenizer, prompt, event.prompt_scores))
                if not is_known or piece.finish_reason is not None:
                    yield piece if not is_known else TextPiece("", (), piece.finish_reason)
                if piece.finish_reason is not None:
                    return
        finally:
            await _close(events)
        raise ProtocolError("an answer ended without saying why")

    def _decoder(self, stop: StopRule, reading: AnswerReading | None) -> TextDecoder:
        if reading is None:
            return TextDecoder(self._tokenizer, stop)
        shown = formats_for(self._formats, reading).markers(bool(reading.tools))
        return TextDecoder(self._tokenizer, stop, shown, PartsReader(self._formats, reading))

    def _check_constraint(self, asked: FieldConstraint) -> None:
        """Compile what a worker will compile again: whoever asks hears at once, and where, if it can't be."""
        try:
            self._grammars.matcher(asked.constraint)
        except RequestError as error:
            raise RequestError(error.problem, param=f"{asked.field}{error.param or ''}", code=error.code) from error


async def merge(streams: Sequence[AsyncGenerator[TextPiece, None]]) -> AsyncGenerator[tuple[int, TextPiece], None]:
    """The pieces of several answers as they come, each with the index of its stream.

    The first error ends all of them; so does closing.
    """
    if len(streams) == 1:
        async with aclosing(streams[0]) as only:
            async for piece in only:
                yield 0, piece
        return
    queue: asyncio.Queue[tuple[int, TextPiece] | Exception | None] = asyncio.Queue(maxsize=64)
    pumps = [asyncio.create_task(_pump(index, stream, queue)) for index, stream in enumerate(streams)]
    try:
        running = len(pumps)
        while running:
            item = await queue.get()
            if item is None:
                running -= 1
            elif isinstance(item, Exception):
                raise item
            else:
                yield item
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(
    index: int,
    stream: AsyncGenerator[TextPiece, None],
    queue: asyncio.Queue[tuple[int, TextPiece] | Exception | None],
) -> None:
    try:
        async with aclosing(stream):
            async for piece in stream:
                await queue.put((index, piece))
        await queue.put(None)
    except Exception as error:
        await queue.put(error)


async def _close(events: AsyncIterator[TokenEvent]) -> None:
    close = getattr(events, "aclose", None)
    if close is not None:
        await close()


def _fewer_tokens(after: int, there: int) -> RequestError:
    return RequestError(
        "the answer has fewer tokens than the client says to have",
        param="Last-Event-ID",
        code="invalid_value",
        found=str(after),
        expected=f"{there} at most",
    )


def _token_limit(prompt: int, asked: int | None, field: str, limits: TokenLimits) -> int:
    if prompt >= limits.context:
        raise too_long(limits.context, field, str(prompt))
    left = limits.context - prompt
    if asked is None:
        fits = limits.smallest_kv - prompt
        return min(left, fits) if fits > 0 else left
    if asked < 0:
        raise RequestError("max_tokens is out of range", param="max_tokens", found=str(asked), expected="0 or more")
    if asked > left:
        raise RequestError(
            f"This model's maximum context length is {limits.context} tokens. However, you requested "
            f"{prompt + asked} tokens ({prompt} in the {field}, {asked} in the completion). "
            f"Please reduce the length of the {field} or ask for at most {left} tokens.",
            param=field,
            code="context_length_exceeded",
        )
    return asked


def _check_stops(stop: tuple[str, ...]) -> None:
    if len(stop) > MAX_STOPS:
        raise RequestError("too many stop strings", param="stop", found=str(len(stop)), expected=f"{MAX_STOPS} at most")
    if "" in stop:
        raise RequestError("a stop string is empty", param="stop", expected="at least one character each")
