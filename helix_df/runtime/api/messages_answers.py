"""Answers in Anthropic's shape, whole and as events, and its errors."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from helix_df.errors import HelixError
from helix_df.runtime.api.answer_blocks import AnswerBlock, AnswerBlocks, BlockKind
from helix_df.runtime.api.answering import Pieces
from helix_df.runtime.api.answers import Json, describe
from helix_df.runtime.api.called_tools import call_id
from helix_df.runtime.api.messages_body import read_input
from helix_df.runtime.api.stream import EVENT_NAME

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
    "said": ("text_delta", "text"),
    "thought": ("thinking_delta", "thinking"),
    "called": ("input_json_delta", "partial_json"),
}
_REASONS = {"length": "max_tokens", "tool_calls": "tool_use", "stop": "end_turn"}


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
    answer: AnswerBlocks = field(default_factory=AnswerBlocks)

    def body(self) -> Json:
        """The message as it is now."""
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [self.block(block) for block in self.answer.blocks],
            **self.ending(),
            "usage": self.usage(),
        }

    def block(self, block: AnswerBlock, *, begins: bool = False) -> Json:
        """A block as it is now, or as it begins."""
        text = "" if begins else block.text
        match block.kind:
            case "said":
                return {"type": "text", "text": text}
            case "thought":
                return {"type": "thinking", "thinking": text, "signature": ""}
            case "called":
                name = call_id(self.id, 0, block.call, prefix="toolu")
                return {"type": "tool_use", "id": name, "name": block.name, "input": read_input(text)}

    def ending(self) -> Json:
        """Why it ended, once it has."""
        answer = self.answer
        reason = None if answer.finish is None else _REASONS[answer.finish]
        return {
            "stop_reason": reason if answer.stop_text is None else "stop_sequence",
            "stop_sequence": answer.stop_text,
        }

    def usage(self) -> Json:
        """Tokens, of which those that were found in KV cache are counted apart."""
        cached = self.answer.cached_tokens
        return {
            "input_tokens": self.prompt_tokens - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": self.answer.output_tokens,
        }


async def whole_message(message: MessageAnswer, pieces: Pieces) -> Json:
    """The body of a message, once it is finished."""
    async with aclosing(pieces):
        async for _, piece in pieces:
            for _grown in message.answer.add(piece):
                pass
    return message.body()


async def message_events(message: MessageAnswer, pieces: Pieces) -> AsyncGenerator[Json, None]:
    """The events of a message."""
    opened, begun = 0, False
    async with aclosing(pieces):
        async for _, piece in pieces:
            if not begun:
                begun = True
                start = replace(message, answer=AnswerBlocks(cached_tokens=piece.cached_tokens))
                yield _event("message_start", message=start.body())
            for block, added in message.answer.add(piece):
                for event in _block_events(message, opened, block, added):
                    yield event
                opened = len(message.answer.blocks)
    if opened:
        yield _event("content_block_stop", index=opened - 1)
    yield _event("message_delta", delta=message.ending(), usage=message.usage())
    yield _event("message_stop")


def _block_events(message: MessageAnswer, opened: int, block: AnswerBlock, added: str) -> Iterator[Json]:
    index = len(message.answer.blocks) - 1
    if index >= opened:
        if opened:
            yield _event("content_block_stop", index=opened - 1)
        yield _event("content_block_start", index=index, content_block=message.block(block, begins=True))
    if added:
        kind, name = _DELTAS[block.kind]
        yield _event("content_block_delta", index=index, delta={"type": kind, name: added})


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
