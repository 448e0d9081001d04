"""The messages of a chat's request, checked, and in the form that chat templates take.

Owns roles, contents, calls of tools and their results. Doesn't know templates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from helix_df.runtime.api.refusals import invalid, shortened, unsupported

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
"""The roles of a chat, and what the model's template calls them."""

_REASONING = ("reasoning_content", "reasoning")

Json = dict[str, Any]
Message = Mapping[str, Any]


def checked_messages(raw: list[Json]) -> tuple[Message, ...]:
    """The messages as templates take them: contents are texts, arguments of calls objects, results have names.

    Raises:
        RequestError: for the first that is wrong, with the path of its field.
    """
    names: dict[str, str] = {}
    messages = []
    for index, one in enumerate(raw):
        message = _message(one, f"messages[{index}]")
        for call in message.get("tool_calls", ()):
            names[call["id"]] = call["function"]["name"]
        if message["role"] == "tool" and "name" not in message and message["tool_call_id"] in names:
            message["name"] = names[message["tool_call_id"]]
        messages.append(message)
    return tuple(messages)


def _message(raw: Json, where: str) -> Json:
    given = {name: value for name, value in raw.items() if value not in (None, [])}
    name = given.pop("name", None)
    role = given.pop("role", None)
    if not isinstance(role, str) or role not in ROLES:
        if role == "function":
            raise unsupported(f"{where}.role", f"'{role}'")
        raise invalid(f"{where}.role", f"expected one of {', '.join(ROLES)}")
    content = _content(given.pop("content", "" if role == "assistant" else None), f"{where}.content")
    message: Json = {"role": ROLES[role], "content": content}
    if role == "assistant":
        message |= _thought(given, where)
        if "tool_calls" in given:
            message["tool_calls"] = _calls(given.pop("tool_calls"), f"{where}.tool_calls")
    elif role == "tool":
        message["tool_call_id"] = _text(given.pop("tool_call_id", None), f"{where}.tool_call_id")
        if name is not None:
            message["name"] = _text(name, f"{where}.name")
    if given:
        raise unsupported(f"{where}.{shortened(min(given))}")
    return message


def _thought(given: Json, where: str) -> Json:
    """What the model thought, by the names that templates know it by."""
    found = [_text(given.pop(name), f"{where}.{name}") for name in _REASONING if name in given]
    return {"reasoning_content": found[0], "thinking": found[0]} if found and found[0] else {}


def _calls(raw: object, where: str) -> list[Json]:
    if not isinstance(raw, list):
        raise invalid(where, "expected a list of calls")
    return [_call(call, f"{where}[{index}]") for index, call in enumerate(raw)]


def _call(raw: object, where: str) -> Json:
    if not isinstance(raw, dict):
        raise invalid(where, "expected an object")
    if raw.get("type", "function") != "function":
        raise unsupported(f"{where}.type", f"'{shortened(raw['type'])}'; only functions are")
    function = raw.get("function")
    if not isinstance(function, dict):
        raise invalid(f"{where}.function", "expected an object with name and arguments")
    return {
        "id": _text(raw.get("id"), f"{where}.id"),
        "type": "function",
        "function": {
            "name": _text(function.get("name"), f"{where}.function.name"),
            "arguments": _arguments(function.get("arguments"), f"{where}.function.arguments"),
        },
    }


def _arguments(raw: object, where: str) -> object:
    """An object, as templates want it; text that isn't one stays text: a model may have been cut off while it wrote."""
    if isinstance(raw, dict):
        return raw
    text = _text(raw if raw is not None else "", where)
    try:
        read = json.loads(text or "{}", parse_constant=_no_number)
    except (ValueError, RecursionError):
        return text
    return read if isinstance(read, dict) else text


def _no_number(name: str) -> None:
    raise ValueError(name)


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise invalid(where, "expected a string")
    return value


def _content(content: object, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise invalid(where, "expected a string or a list of text parts")
    texts = []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            raise unsupported(f"{where}[{index}]", f"of type '{shortened(kind)}'; only text is")
        if not isinstance(part.get("text"), str):
            raise invalid(f"{where}[{index}].text", "expected a string")
        texts.append(part["text"])
    return "".join(texts)


def message_schema() -> Json:
    """The JSON schema of a message, by its role; whatever else it has must be empty."""
    text: Json = {"type": "string"}
    part: Json = {
        "type": "object",
        "required": ["type", "text"],
        "properties": {"type": {"const": "text"}, "text": text},
    }
    content: list[Json] = [text, {"type": "array", "items": part, "minItems": 1}]
    empty: Json = {"enum": [None, []]}
    said = {"name": {}, "content": {"anyOf": content}}
    thought = {name: {"anyOf": [text, empty]} for name in _REASONING}
    calls = {"anyOf": [{"type": "array", "items": _call_schema()}, empty]}

    def of(roles: list[str], required: list[str], fields: Json) -> Json:
        return {
            "type": "object",
            "required": ["role", *required],
            "properties": {"role": {"enum": roles}, **fields},
            "additionalProperties": empty,
        }

    return {
        "anyOf": [
            of([role for role in ROLES if role not in ("assistant", "tool")], ["content"], said),
            of(["assistant"], [], {**said, **thought, "content": {"anyOf": [*content, empty]}, "tool_calls": calls}),
            of(
                ["tool"],
                ["content", "tool_call_id"],
                {**said, "name": {"anyOf": [text, empty]}, "tool_call_id": text},
            ),
        ]
    }


def _call_schema() -> Json:
    text: Json = {"type": "string"}
    arguments: Json = {"anyOf": [text, {"type": "object"}, {"type": "null"}]}
    function = {"type": "object", "required": ["name"], "properties": {"name": text, "arguments": arguments}}
    return {
        "type": "object",
        "required": ["id", "function"],
        "properties": {"id": text, "type": {"const": "function"}, "function": function},
    }
