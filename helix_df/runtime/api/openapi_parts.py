"""The parts that an OpenAPI document is made of: references, answers, refusals, events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from helix_df.runtime.api.answer_bodies import ErrorBody

Json = dict[str, Any]

REF = "#/components/schemas/{model}"
REFUSALS = {
    400: "a field is wrong, the prompt exceeds the context, or the body isn't JSON",
    404: "there is no such model",
    408: "the request didn't arrive in time",
    413: "the body is larger than `runtime.max_body`",
    415: "the body isn't declared as JSON",
    429: "something is full; the code says what",
    431: "the headers are too large or too many",
    500: "the server failed, or a node computed what isn't a number",
    503: "no full path through the layers is up",
    504: "the answer took longer than `timeout` or `runtime.request_timeout` allows",
}
"""Why requests are refused, by status."""

_RETRY_AFTER = {"Retry-After": {"description": "seconds", "schema": {"type": "integer", "minimum": 0}}}


def ref(name: str) -> Json:
    """A reference to a schema."""
    return {"$ref": REF.format(model=name)}


def answer_of(description: str, *schemas: str) -> Json:
    """An answer of JSON, in any of these schemas."""
    schema = ref(schemas[0]) if len(schemas) == 1 else {"anyOf": [ref(name) for name in schemas]}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def errors(refusals: Mapping[int, str]) -> Json:
    """The answers that refuse."""
    found: Json = {}
    for status, why in sorted(refusals.items()):
        found[str(status)] = answer_of(why, ErrorBody.__name__)
        if status in (429, 503):
            found[str(status)]["headers"] = _RETRY_AFTER
    return found


def look(
    name: str, summary: str, schema: str, refusals: Mapping[int, str], parameters: list[Json] | None = None
) -> Json:
    """The path of something to look at."""
    operation: Json = {"operationId": name, "summary": summary}
    if parameters:
        operation["parameters"] = parameters
    operation["responses"] = {"200": answer_of("found", schema), **errors(refusals)}
    return {"get": operation}


def event_schema(*chunks: type[BaseModel]) -> Json:
    """One event of a stream: a chunk, the end, or the error at which the answer broke off; as OpenAPI 3.2 writes it."""
    document = {"anyOf": [*(ref(chunk.__name__) for chunk in chunks), ref(ErrorBody.__name__)]}
    data = [
        {"type": "string", "contentMediaType": "application/json", "contentSchema": document},
        {"const": "[DONE]"},
    ]
    return {"type": "object", "required": ["data"], "properties": {"data": {"anyOf": data}}}
