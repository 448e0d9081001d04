"""Answers that have to be calls of tools: constraints by which they are written as JSON, whatever the model's own form.

They are read by the format ``json`` (``answer_formats.json_calls``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from helix_df.runtime.api.structured import FieldConstraint
from helix_df.runtime.constraints import Constraint

Json = dict[str, Any]
Tool = Mapping[str, Any]


def calls_constraint(tools: Sequence[Tool], field: str, *, several: bool, other: Json | None = None) -> FieldConstraint:
    """The constraint that an answer is a list of calls, at least one.

    Args:
        tools: that may be called, as templates take them.
        field: of the request, that asks for it.
        several: whether more than one call may be made.
        other: the schema of an answer that may be given instead.
    """
    definitions = {f"tool{at}": _placed(_parameters(tool), f"tool{at}") for at, tool in enumerate(tools)}
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool["function"]["name"]},
                "arguments": {"$ref": f"#/$defs/tool{at}"},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for at, tool in enumerate(tools)
    ]
    schema: Json = {"type": "array", "items": {"anyOf": calls}, "minItems": 1}
    if not several:
        schema["maxItems"] = 1
    if other is not None:
        definitions["answer"] = _placed(other, "answer")
        schema = {"anyOf": [schema, {"$ref": "#/$defs/answer"}]}
    return FieldConstraint(Constraint.json_schema({**schema, "$defs": definitions}), field, has_calls=True)


def _parameters(tool: Tool) -> Json:
    """The schema of a tool's arguments, which are an object in any case."""
    return {"type": "object", **tool["function"]["parameters"]}


def _placed(schema: Any, name: str) -> Any:
    """A schema whose references are to itself, for a place among the definitions of another."""
    if isinstance(schema, Mapping):
        return {
            key: f"#/$defs/{name}{value[1:]}" if _is_reference(key, value) else _placed(value, name)
            for key, value in schema.items()
        }
    return [_placed(item, name) for item in schema] if isinstance(schema, list) else schema


def _is_reference(key: str, value: object) -> bool:
    return key == "$ref" and isinstance(value, str) and value.startswith("#")
