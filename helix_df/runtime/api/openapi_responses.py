"""What the OpenAPI document says of ``/v1/responses``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from pydantic.json_schema import models_json_schema

from helix_df.runtime.api.answer_bodies import AnswerBody
from helix_df.runtime.api.openapi_parts import REF, Json, answer_of, errors, ref
from helix_df.runtime.api.responses_body import ResponsesBody
from helix_df.runtime.api.timeouts import MAX_TIMEOUT_S, TIMEOUT_HEADER

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class SaidPart(AnswerBody):
    """Words."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[Any]


class ReasonedPart(AnswerBody):
    """Words of a thought."""

    type: Literal["reasoning_text"]
    text: str


class SaidItem(AnswerBody):
    """What the assistant says."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: ItemStatus
    content: list[SaidPart]


class ReasonedItem(AnswerBody):
    """What it thought before."""

    id: str
    type: Literal["reasoning"]
    status: ItemStatus
    summary: list[Any]
    content: list[ReasonedPart]


class CalledItem(AnswerBody):
    """A call of a function, with the JSON of its arguments as the model wrote it."""

    id: str
    type: Literal["function_call"]
    status: ItemStatus
    call_id: str
    name: str
    arguments: str


class CutOff(AnswerBody):
    """Why a response is incomplete."""

    reason: Literal["max_output_tokens"]


class InputDetails(AnswerBody):
    """Of the prompt's tokens, those that were in KV cache already."""

    cached_tokens: int
    cache_write_tokens: int


class OutputDetails(AnswerBody):
    """Of the answer's tokens, those that were thought."""

    reasoning_tokens: int


class ResponseUsageBody(AnswerBody):
    """Tokens that a response took."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ResponseBody(AnswerBody):
    """The answer to ``/v1/responses``, which repeats what was asked for; ``created_at`` in Unix seconds."""

    id: str
    object: Literal["response"]
    created_at: int
    status: ItemStatus
    error: None
    incomplete_details: CutOff | None
    model: str
    output: list[SaidItem | ReasonedItem | CalledItem]
    previous_response_id: None
    store: Literal[False]
    truncation: Literal["disabled"]
    metadata: dict[str, Any]
    instructions: str | None
    max_output_tokens: int | None
    parallel_tool_calls: bool
    reasoning: dict[str, Any]
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_p: float
    usage: ResponseUsageBody | None


class ResponseEvent(BaseModel):
    """An event of a streamed response: what it has besides follows from its type, as in OpenAI's API."""

    model_config = ConfigDict(extra="allow")

    type: str
    sequence_number: int


def response_schemas() -> Json:
    """The schemas of answers."""
    _, found = models_json_schema([(ResponseBody, "serialization"), (ResponseEvent, "serialization")], ref_template=REF)
    schemas: Json = found["$defs"]
    return schemas


def response_paths(refusals: Mapping[int, str]) -> Json:
    """The path."""
    done = answer_of("the answer; with `stream` as server-sent events", ResponseBody.__name__)
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": ref(ResponseEvent.__name__)}
    done["content"]["text/event-stream"] = {
        "itemSchema": {"type": "object", "required": ["data"], "properties": {"data": data}}
    }
    wait: Json = {"name": TIMEOUT_HEADER, "in": "header", "description": "as `timeout` of the body; the lesser counts"}
    wait["schema"] = {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_TIMEOUT_S}
    body = {"required": True, "content": {"application/json": {"schema": ref(ResponsesBody.__name__)}}}
    return {
        "/v1/responses": {
            "post": {
                "operationId": "responses",
                "summary": "What follows on a conversation; nothing of it is stored.",
                "parameters": [wait],
                "requestBody": body,
                "responses": {"200": done, **errors(refusals)},
            }
        }
    }
