"""Tools told in words, for chat templates that have no place for them: what they are, how to call them, what came back.

The answer is then read by the format ``json`` (``answer_formats.json_calls``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

_HOW = (
    "You can call functions. To call one, answer with nothing but a JSON object of this form:\n"
    '{"name": "the name of the function", "arguments": {"the name of a parameter": "its value"}}\n'
    "To call several, answer with a list of such objects. If no function is needed, answer in plain words.\n"
    "These are the functions, with their parameters as JSON schemas:\n"
)

Message = Mapping[str, Any]


def told_in_words(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], *, by: Literal["system", "user"] = "system"
) -> list[Message]:
    """The same chat in messages that have a role of ``system``, ``user`` or ``assistant`` and a content, no more.

    A chat without tools, calls and results is as it was. Tools stand in the first message of the role ``by``.
    """
    told: list[Message] = []
    names: dict[str, str] = {}
    was_result = False
    for message in messages:
        is_result = message.get("role") == "tool"
        if message.get("tool_calls"):
            names |= {call["id"]: call["function"]["name"] for call in message["tool_calls"] if "id" in call}
            told.append({"role": message["role"], "content": _with_calls(message)})
        elif is_result or (was_result and message.get("role") == "user"):
            text = _result(message, names) if is_result else message.get("content", "")
            _add_users(told, text, joins=was_result)
        else:
            told.append(message)
        was_result = is_result
    return _with_tools(told, tools, by) if tools else told


def _with_calls(message: Message) -> str:
    calls = [
        {"name": call["function"]["name"], "arguments": call["function"]["arguments"]} for call in message["tool_calls"]
    ]
    written = json.dumps(calls[0] if len(calls) == 1 else calls, ensure_ascii=False)
    content = message.get("content") or ""
    return f"{content}\n{written}" if content else written


def _result(message: Message, names: Mapping[str, str]) -> str:
    name = message.get("name") or names.get(message.get("tool_call_id", ""), "the function")
    return f"Result of {name}: {message['content']}"


def _add_users(told: list[Message], text: str, *, joins: bool) -> None:
    """Words on the user's side; many templates want the sides to take turns."""
    if joins:
        text = f"{told.pop()['content']}\n{text}"
    told.append({"role": "user", "content": text})


def _with_tools(told: list[Message], tools: Sequence[Mapping[str, Any]], by: str) -> list[Message]:
    what = _HOW + "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    if told and told[0]["role"] == by:
        texts = [told[0]["content"], what] if by == "system" else [what, told[0]["content"]]
        return [{**told[0], "content": "\n\n".join(texts)}, *told[1:]]
    return [{"role": by, "content": what}, *told]
