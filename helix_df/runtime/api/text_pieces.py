"""From the tokens of an answer to its pieces: text, likely tokens, and what is thought and called.

Owns what waits for more tokens: half a character, the start of a stop string, or of a call. Doesn't know requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from helix_df.models.answer_formats.api import Content, Part
from helix_df.models.streaming_text import StopMatcher, StopRule, StreamDecoder
from helix_df.runtime.api.answer_reading import AnswerEnd, PartsReader, content_of
from helix_df.runtime.requests import FinishReason, TokenEvent, TopLogprobs

if TYPE_CHECKING:
    from helix_df.models.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class TopToken:
    """A token that was likely in some place: its text alone, its bytes, and its log-probability (natural)."""

    id: int
    text: str
    raw: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A generated token with its log-probability (natural), and the likeliest tokens in its place, best first.

    ``text`` is what the token adds to the answer, which begins at character ``offset``: the texts of all tokens joined
    are the answer, before stop strings. ``raw`` are the token's own bytes, which may be a part of a character.
    """

    text: str
    raw: bytes
    logprob: float
    offset: int
    top: tuple[TopToken, ...]


@dataclass(frozen=True, slots=True)
class PromptToken:
    """A token of a prompt: its text, which begins at character ``offset``, and what the model thought of it.

    Of the first one that is nothing: ``logprob`` and ``rank`` are None. ``top`` are the likeliest in its place, best
    first.
    """

    id: int
    text: str
    offset: int
    logprob: float | None = None
    rank: int | None = None
    top: tuple[TopToken, ...] = ()


@dataclass(frozen=True, slots=True)
class TextPiece:
    """A part of an answer; the last one has a ``finish_reason``.

    ``text`` may be empty while bytes of a character or a possible start of a stop string are held back. Of a chat it is
    what is said to the user; ``parts`` has that, and what is thought and called, in their order. ``stop_text`` is the
    stop string that ended it, if one did. ``cached_tokens``, on the first piece only, are those of the prompt that were
    in KV cache already; ``prompt``, there too if that was asked for, are the prompt's tokens with their scores.
    ``waited_s``, there too, is how long the request was in the queue.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    finish_reason: AnswerEnd | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    cached_tokens: int = 0
    parts: tuple[Part, ...] | None = None
    stop_text: str | None = None
    prompt: tuple[PromptToken, ...] = ()
    waited_s: float = 0.0

    @property
    def told(self) -> tuple[Part, ...]:
        """Its parts, of which plain text is one."""
        if self.parts is not None:
            return self.parts
        return (Content(self.text),) if self.text else ()


class TextDecoder:
    """Turns the token events of one answer into pieces of text."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: StopRule,
        shown: frozenset[str] = frozenset(),
        reader: PartsReader | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._reader = reader
        self._decoder = StreamDecoder(tokenizer.decoder(shown))
        self._matcher = StopMatcher(stop.texts, included=stop.included)
        self._free = stop.after
        self._decoded = 0
        self._begun = False

    def push(self, event: TokenEvent) -> TextPiece:
        """What the next event adds."""
        token_ids = () if event.token is None else (event.token,)
        added = "".join(self._decoder.push(token) for token in token_ids)
        if event.finish is not None:
            added += self._decoder.finish()
        self._free -= len(token_ids)
        text = added if self._free >= 0 else self._matcher.push(added)
        if event.finish is not None and not self._matcher.stopped:
            text += self._matcher.finish()
        finish: FinishReason | None = "stop" if self._matcher.stopped else event.finish
        logprobs = self._logprobs(event.token, added, event.logprobs)
        self._decoded += len(added)
        self._begun = self._begun or bool(token_ids)
        cached, matched = event.cached_tokens, self._matcher.matched
        if self._reader is None:
            return TextPiece(text, token_ids, finish, logprobs, cached, None, matched, waited_s=event.waited_s)
        parts, end = self._reader.read(text, finish)
        said = content_of(parts)
        return TextPiece(said, token_ids, end, logprobs, cached, parts, matched, waited_s=event.waited_s)

    def _logprobs(self, token: int | None, added: str, logprobs: TopLogprobs | None) -> tuple[TokenLogprob, ...]:
        if token is None or logprobs is None:
            return ()
        top = tuple(self._top(other, logprob) for other, logprob in logprobs.top)
        return (TokenLogprob(added, self._bytes(token), logprobs.chosen, self._decoded, top),)

    def _top(self, token: int, logprob: float) -> TopToken:
        raw = self._bytes(token)
        return TopToken(token, readable(raw), raw, logprob)

    def _bytes(self, token: int) -> bytes:
        """The token's bytes here: some tokenizers leave the space away that begins a text."""
        raw = self._tokenizer.token_bytes(token)
        first = not self._begun and raw.startswith(b" ")
        return raw[1:] if first and not self._tokenizer.decode((token,)).startswith(" ") else raw


def readable(raw: bytes) -> str:
    """Bytes as text; those of a part of a character as OpenAI writes them."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
