"""Calls of tools as OpenAI's bodies have them, whole and in pieces."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from helix_df.models.answer_formats.api import CallArguments, CallStart, Part

Json = dict[str, Any]


@dataclass(slots=True)
class CalledTool:
    """A call as it grows."""

    name: str
    arguments: str = ""


def add_calls(calls: list[CalledTool], parts: Iterable[Part]) -> None:
    """Take in the calls among further parts of an answer."""
    for part in parts:
        if isinstance(part, CallStart):
            calls.append(CalledTool(part.name))
        elif isinstance(part, CallArguments):
            calls[part.index].arguments += part.text


def call_id(answer: str, choice: int, index: int, prefix: str = "call") -> str:
    """The id of a call: the same whenever its answer is told."""
    return f"{prefix}_{hashlib.sha256(f'{answer}/{choice}/{index}'.encode()).hexdigest()[:24]}"


def whole_calls(answer: str, choice: int, calls: Iterable[CalledTool]) -> list[Json]:
    """The calls of a finished message."""
    return [
        {
            "id": call_id(answer, choice, index),
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for index, call in enumerate(calls)
    ]


def call_deltas(answer: str, choice: int, parts: Iterable[Part]) -> list[Json]:
    """What parts of an answer add to its calls: one entry for each call that they are about."""
    deltas: dict[int, Json] = {}
    for part in parts:
        if isinstance(part, CallStart):
            deltas[part.index] = {
                "index": part.index,
                "id": call_id(answer, choice, part.index),
                "type": "function",
                "function": {"name": part.name, "arguments": ""},
            }
        elif isinstance(part, CallArguments):
            delta = deltas.setdefault(part.index, {"index": part.index, "function": {"arguments": ""}})
            delta["function"]["arguments"] += part.text
    return list(deltas.values())
