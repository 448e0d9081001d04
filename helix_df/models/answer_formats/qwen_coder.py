"""Qwen 3 Coder's calls: ``<function=NAME>`` with a ``<parameter=NAME>`` for each argument, between Hermes' marks.

Values are written bare. One is a text where the tool's schema says so; elsewhere it is JSON if it reads as JSON.
"""

from __future__ import annotations

import json
from functools import partial

from helix_df.models.answer_formats.api import AnswerContext, AnswerParser
from helix_df.models.answer_formats.call_objects import MOST_NAME
from helix_df.models.answer_formats.reading import END, Characters, GrammarParser, NotThis, PartsBuilder, Reading

_OPENING, _CLOSING = "<tool_call>", "</tool_call>"
_FUNCTION, _FUNCTION_END = "<function=", "</function>"
_PARAMETER, _PARAMETER_END = "<parameter=", "</parameter>"
_WORDS = {"True": "true", "False": "false", "None": "null"}
"""What Python calls these, as templates write them."""


class QwenCoderFormat:
    """See the module; an ``AnswerFormat`` of calls."""

    name = "qwen3_coder"
    markers = (_OPENING, _CLOSING)

    def is_of(self, template: str) -> bool:
        """See ``AnswerFormat``."""
        return _FUNCTION in template and _PARAMETER in template

    def parser(self, context: AnswerContext) -> AnswerParser:
        """See ``AnswerFormat``."""
        return GrammarParser(partial(_answer, frozenset(context.texts)))

    def template_id(self, call_id: str) -> str:
        """See ``AnswerFormat``."""
        return call_id


def _answer(texts: frozenset[str], characters: Characters, parts: PartsBuilder) -> Reading[None]:
    while (found := (yield from characters.until((_OPENING, _FUNCTION), parts.content))) != END:
        characters.begin()
        before = parts.calls
        try:
            if found == _OPENING:
                yield from characters.expect(_FUNCTION)
            yield from _call(texts, characters, parts)
            characters.begin()
            yield from characters.expect(_CLOSING)
        except NotThis:
            parts.content(characters.taken if parts.calls > before else found + characters.taken)


def _call(texts: frozenset[str], characters: Characters, parts: PartsBuilder) -> Reading[None]:
    """A call, from its name on; once that is told, nothing is wrong any more, but may be cut off."""
    name = yield from _name(characters)
    parts.start(name)
    written = 0
    while True:
        found = yield from characters.until((_PARAMETER, _FUNCTION_END, _CLOSING), _skip)
        if found == END:
            return
        if found != _PARAMETER:
            parts.arguments("}" if written else "{}")
            if found == _CLOSING:
                raise NotThis  # there is nothing to close any more
            return
        key = yield from _name(characters)
        value: list[str] = []
        if (yield from characters.until((_PARAMETER_END,), value.append)) == END:
            return
        text = "".join(value).removeprefix("\n").removesuffix("\n")
        is_text = f"{name}/{key}" in texts
        parts.arguments(f"{', ' if written else '{'}{_written(key)}: {_written(text) if is_text else _read(text)}")
        written += 1


def _skip(text: str) -> None:
    """Between parameters there is only layout."""


def _name(characters: Characters) -> Reading[str]:
    name = ""
    while (character := (yield from characters.next())) != ">":
        name += character
        if character in (END, "\n", "<") or len(name) > MOST_NAME:
            characters.back(character)
            raise NotThis
    if not name:
        raise NotThis
    return name


def _written(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _read(text: str) -> str:
    """A value whose type nobody says, as JSON."""
    text = _WORDS.get(text, text)
    try:
        json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return _written(text)
    return text


def _no_number(name: str) -> None:
    raise ValueError(name)
