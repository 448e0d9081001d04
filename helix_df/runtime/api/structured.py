"""What a request says of the form of its answer: OpenAI's ``response_format``, and vLLM's ``structured_outputs``.

Owns both objects and what constraint each asks for. Doesn't compile constraints.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from helix_df.errors import RequestError
from helix_df.runtime.api.field_types import Strings
from helix_df.runtime.constraints import WHITESPACE, Constraint

Asked = TypeVar("Asked")


@dataclass(frozen=True, slots=True)
class FieldConstraint:
    """A constraint, and the way to the field that asks for it; ``has_calls`` where it describes calls of tools, so that
    the answer is read for them."""

    constraint: Constraint
    field: str
    has_calls: bool = False


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class JsonSchemaFormat(_Part):
    """``response_format.json_schema``; the answer keeps to the schema, strict or not."""

    name: str = ""
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(_Part):
    """``response_format``."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(_Part):
    """``structured_outputs``: one of the first five. ``json`` is a schema, as an object or as text."""

    json_: dict[str, Any] | str | None = Field(None, alias="json")
    regex: str | None = None
    choice: Strings | None = None
    grammar: str | None = None
    json_object: bool | None = None
    disable_any_whitespace: bool = False
    whitespace_pattern: str | None = None

    @property
    def whitespace(self) -> str | None:
        """What may stand between the parts of a JSON text."""
        return None if self.disable_any_whitespace else self.whitespace_pattern or WHITESPACE


def constraint_of(response_format: ResponseFormat | None, outputs: StructuredOutputs | None) -> FieldConstraint | None:
    """The constraint of an answer, if there is one.

    Raises:
        RequestError: when several are asked for, or one isn't whole.
    """
    asked = [] if outputs is None else list(_asked(outputs))
    if response_format is not None and response_format.type != "text":
        asked.insert(0, _by_format(response_format))
    if len(asked) > 1:
        raise _wrong(asked[1].field, f"the answer can't keep to {asked[0].field} as well")
    if outputs is not None and not asked:
        raise _wrong("structured_outputs", "expected one of json, regex, choice, grammar and json_object")
    return asked[0] if asked else None


def _by_format(asked: ResponseFormat) -> FieldConstraint:
    if asked.type == "json_object":
        return FieldConstraint(Constraint.json_object(), "response_format")
    if asked.json_schema is None:
        raise _wrong("response_format.json_schema", "type json_schema needs it")
    return _made("response_format.json_schema.schema", Constraint.json_schema, asked.json_schema.schema_)


def _asked(outputs: StructuredOutputs) -> Iterator[FieldConstraint]:
    json_schema = partial(Constraint.json_schema, whitespace=outputs.whitespace)
    if outputs.json_ is not None:
        yield _made("structured_outputs.json", json_schema, _schema(outputs.json_))
    if outputs.regex is not None:
        yield _made("structured_outputs.regex", Constraint.regex, outputs.regex)
    if outputs.choice is not None:
        yield _made("structured_outputs.choice", Constraint.choice, _options(outputs.choice))
    if outputs.grammar is not None:
        yield _made("structured_outputs.grammar", Constraint.lark, outputs.grammar)
    if outputs.json_object:
        yield _made("structured_outputs.json_object", json_schema, {"type": "object"})


def _made(field: str, make: Callable[[Asked], Constraint], asked: Asked) -> FieldConstraint:
    try:
        return FieldConstraint(make(asked), field)
    except RequestError as error:
        raise RequestError(
            error.problem, param=field, code=error.code, found=str(error.found), expected=error.expected
        ) from error


def _schema(asked: dict[str, Any] | str) -> dict[str, Any]:
    if isinstance(asked, dict):
        return asked
    try:
        schema = json.loads(asked)
    except (ValueError, RecursionError) as error:
        raise _wrong("structured_outputs.json", f"it is not valid JSON: {error}") from error
    if not isinstance(schema, dict):
        raise _wrong("structured_outputs.json", "expected a JSON Schema, an object")
    return schema


def _options(asked: list[str]) -> list[str]:
    if not asked or "" in asked:
        raise _wrong("structured_outputs.choice", "expected at least one text, and none that is empty")
    return asked


def _wrong(field: str, why: str) -> RequestError:
    return RequestError(f"Invalid value for '{field}': {why}.", param=field, code="invalid_value")
