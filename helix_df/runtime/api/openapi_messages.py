"""What the OpenAPI document says of Anthropic's endpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field
from pydantic.json_schema import models_json_schema

from helix_df.runtime.api.answer_bodies import AnswerBody
from helix_df.runtime.api.messages_body import CountTokensBody, MessagesBody
from helix_df.runtime.api.openapi_parts import REF, REFUSALS, Json, ref
from helix_df.runtime.api.timeouts import TIMEOUT_HEADER


class SaidBlock(AnswerBody):
    """What the assistant says."""

    type: Literal["text"]
    text: str


class ThoughtBlock(AnswerBody):
    """What it thought; the signature is empty."""

    type: Literal["thinking"]
    thinking: str
    signature: str


class CalledBlock(AnswerBody):
    """A call of a tool."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class MessageUsage(AnswerBody):
    """Tokens; ``input_tokens`` without those that were in KV cache already."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


class MessageBody(AnswerBody):
    """The answer to ``/v1/messages``."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[SaidBlock | ThoughtBlock | CalledBlock]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"] | None
    stop_sequence: str | None
    usage: MessageUsage


class MessageStart(AnswerBody):
    """The first event: the message, still empty."""

    type: Literal["message_start"]
    message: MessageBody


class BlockStart(AnswerBody):
    """A block begins."""

    type: Literal["content_block_start"]
    index: int
    content_block: SaidBlock | ThoughtBlock | CalledBlock


class BlockDelta(AnswerBody):
    """What is added to a block: ``text``, ``thinking`` or ``partial_json``, by its type."""

    type: Literal["content_block_delta"]
    index: int
    delta: dict[str, str]


class BlockStop(AnswerBody):
    """A block ends."""

    type: Literal["content_block_stop"]
    index: int


class MessageEnding(AnswerBody):
    """Why a message ends."""

    stop_reason: str
    stop_sequence: str | None


class MessageDelta(AnswerBody):
    """The last but one: why the message ends, and its usage."""

    type: Literal["message_delta"]
    delta: MessageEnding
    usage: MessageUsage


class MessageStop(AnswerBody):
    """The last."""

    type: Literal["message_stop"]


class MessageErrorDetails(AnswerBody):
    """What is wrong."""

    type: str
    message: str


class MessageErrorBody(AnswerBody):
    """An error in Anthropic's shape."""

    type: Literal["error"]
    error: MessageErrorDetails
    request_id: str | None


class CountedTokens(AnswerBody):
    """The tokens of a prompt."""

    input_tokens: int = Field(ge=0)


EVENTS = (MessageStart, BlockStart, BlockDelta, BlockStop, MessageDelta, MessageStop, MessageErrorBody)


def message_schemas() -> Json:
    """The schemas of answers."""
    kinds: list[tuple[type[AnswerBody], Literal["serialization"]]] = [
        (kind, "serialization") for kind in (MessageBody, CountedTokens, *EVENTS)
    ]
    _, found = models_json_schema(kinds, ref_template=REF)
    schemas: Json = found["$defs"]
    return schemas


def message_paths(refusals: Mapping[int, str]) -> Json:
    """The paths, which are refused as others are, in other words."""
    done: Json = {"application/json": {"schema": ref(MessageBody.__name__)}}
    data = {"type": "string", "contentMediaType": "application/json"}
    event = {"anyOf": [ref(kind.__name__) for kind in EVENTS]}
    done["text/event-stream"] = {
        "itemSchema": {"type": "object", "required": ["data"], "properties": {"data": {**data, "contentSchema": event}}}
    }
    return {
        "/v1/messages": _path("messages", "The next message of a chat, as Anthropic's.", MessagesBody, done, refusals),
        "/v1/messages/count_tokens": _path(
            "count_tokens",
            "The tokens of a chat.",
            CountTokensBody,
            {"application/json": {"schema": ref(CountedTokens.__name__)}},
            refusals,
        ),
    }


def _path(name: str, summary: str, body: type[CountTokensBody], done: Json, refusals: Mapping[int, str]) -> Json:
    error = {"application/json": {"schema": ref(MessageErrorBody.__name__)}}
    wait: Json = {"name": TIMEOUT_HEADER, "in": "header", "description": "seconds for all of the answer"}
    wait["schema"] = {"type": "number", "exclusiveMinimum": 0, "maximum": 86_400}
    return {
        "post": {
            "operationId": name,
            "summary": summary,
            "parameters": [wait] if body is MessagesBody else [],
            "requestBody": {"required": True, "content": {"application/json": {"schema": ref(body.__name__)}}},
            "responses": {
                "200": {"description": "the answer", "content": done},
                **{
                    str(status): {"description": refusals.get(status, REFUSALS[status]), "content": error}
                    for status in sorted(REFUSALS)
                },
                **({"401": {"description": refusals[401], "content": error}} if 401 in refusals else {}),
            },
        }
    }
