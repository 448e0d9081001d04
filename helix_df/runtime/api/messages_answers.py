"""Answers in Anthropic's shape, whole and as events, and its errors."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal

from helix_df.errors import HelixError
from helix_df.models.answer_formats.api import CallArguments, CallStart, Content, Part
from helix_df.runtime.api.answering import Pieces
from helix_df.runtime.api.answers import Json, describe
from helix_df.runtime.api.called_tools import call_id
from helix_df.runtime.api.generation import TextPiece
from helix_df.runtime.api.messages_body import read_input
from helix_df.runtime.api.stream import EVENT_NAME

BlockKind = Literal["text", "thinking", "tool_use"]

_ERRORS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_DELTAS: dict[BlockKind, tuple[str, str]] = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool_use": ("input_json_delta", "partial_json"),
}


@dataclass(slots=True)
class AnswerBlock:
    """A block of an answer as it grows; ``text`` is what is said, thought or given to the tool."""

    kind: BlockKind
    text: str = ""
    name: str = ""
    id: str = ""

    def body(self) -> Json:
        """The block as it is now."""
        match self.kind:
            case "text":
                return {"type": "text", "text": self.text}
            case "thinking":
                return {"type": "thinking", "thinking": self.text, "signature": ""}
            case "tool_use":
                return {"type": "tool_use", "id": self.id, "name": self.name, "input": read_input(self.text)}


@dataclass(slots=True)
class MessageAnswer:
    """One message as it grows.

    Args:
        id: of the message.
        model: the name of the model.
        prompt_tokens: of its prompt.
    """

    id: str
    model: str
    prompt_tokens: int
    blocks: list[AnswerBlock] = field(default_factory=list)
    output_tokens: int = 0
    cached_tokens: int = 0
    stop_reason: str | None = None
    stop_sequence: str | None = None
    _calls: int = 0

    def add(self, piece: TextPiece) -> Iterator[tuple[AnswerBlock, str]]:
        """Take in the next piece: the blocks that grow by it, with what they grow by; new ones first by nothing."""
        self.output_tokens += len(piece.token_ids)
        self.cached_tokens += piece.cached_tokens
        for part in piece.told:
            yield from self._grown(part)
        match piece.finish_reason:
            case "length":
                self.stop_reason = "max_tokens"
            case "tool_calls":
                self.stop_reason = "tool_use"
            case "stop":
                self.stop_sequence = piece.stop_text
                self.stop_reason = "end_turn" if piece.stop_text is None else "stop_sequence"

    def body(self) -> Json:
        """The message as it is now."""
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [block.body() for block in self.blocks],
            "stop_reason": self.stop_reason,
            "stop_sequence": self.stop_sequence,
            "usage": self.usage(),
        }

    def usage(self) -> Json:
        """Tokens, of which those that were found in KV cache are counted apart."""
        return {
            "input_tokens": self.prompt_tokens - self.cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": self.cached_tokens,
            "output_tokens": self.output_tokens,
        }

    def _grown(self, part: Part) -> Iterator[tuple[AnswerBlock, str]]:
        if isinstance(part, CallStart):
            name = call_id(self.id, 0, self._calls, prefix="toolu")
            self._calls += 1
            yield from self._opened(AnswerBlock("tool_use", name=part.name, id=name))
            return
        kind: BlockKind = (
            "tool_use" if isinstance(part, CallArguments) else "text" if isinstance(part, Content) else "thinking"
        )
        if not self.blocks or self.blocks[-1].kind != kind:
            yield from self._opened(AnswerBlock(kind))
        self.blocks[-1].text += part.text
        yield self.blocks[-1], part.text

    def _opened(self, block: AnswerBlock) -> Iterator[tuple[AnswerBlock, str]]:
        self.blocks.append(block)
        yield block, ""


async def whole_message(answer: MessageAnswer, pieces: Pieces) -> Json:
    """The body of a message, once it is finished."""
    async with aclosing(pieces):
        async for _, piece in pieces:
            for _grown in answer.add(piece):
                pass
    return answer.body()


async def message_events(answer: MessageAnswer, pieces: Pieces) -> AsyncGenerator[Json, None]:
    """The events of a message."""
    begun, opened = False, 0
    async with aclosing(pieces):
        async for _, piece in pieces:
            if not begun:
                answer.cached_tokens = piece.cached_tokens
                yield _event("message_start", message=answer.body())
                answer.cached_tokens, begun = 0, True
            for block, added in answer.add(piece):
                for event in _block_events(len(answer.blocks), opened, block, added):
                    yield event
                opened = len(answer.blocks)
    if opened:
        yield _event("content_block_stop", index=opened - 1)
    reason = {"stop_reason": answer.stop_reason, "stop_sequence": answer.stop_sequence}
    yield _event("message_delta", delta=reason, usage=answer.usage())
    yield _event("message_stop")


def _block_events(blocks: int, opened: int, block: AnswerBlock, added: str) -> Iterable[Json]:
    if blocks > opened:
        if opened:
            yield _event("content_block_stop", index=opened - 1)
        empty = AnswerBlock(block.kind, "", block.name, block.id)
        yield _event("content_block_start", index=blocks - 1, content_block=empty.body())
    if added:
        kind, field_name = _DELTAS[block.kind]
        yield _event("content_block_delta", index=blocks - 1, delta={"type": kind, field_name: added})


def _event(name: str, **fields: object) -> Json:
    return {EVENT_NAME: name, "type": name, **fields}


def message_error(status: int, message: str, request_id: str | None) -> Json:
    """An error in Anthropic's shape; the type follows from the HTTP status."""
    kind = _ERRORS.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}


def describe_event(error: HelixError) -> tuple[int, Json]:
    """The error at which a stream breaks off."""
    status, document = describe(error)
    return status, {EVENT_NAME: "error", **message_error(status, document["error"]["message"], None)}
