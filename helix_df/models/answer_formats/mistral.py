"""Mistral's calls after ``[TOOL_CALLS]``: a list of JSON objects with ``name`` and ``arguments``, or, of newer models,
a name and its arguments, with ``[CALL_ID]`` and ``[ARGS]`` between them or without."""

from __future__ import annotations

import hashlib
import re

from helix_df.models.answer_formats.api import AnswerContext, AnswerParser
from helix_df.models.answer_formats.call_objects import MOST_NAME, CallReader
from helix_df.models.answer_formats.reading import END, Characters, GrammarParser, NotThis, PartsBuilder, Reading

_OPENING, _ID, _ARGUMENTS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_TEMPLATE_ID = re.compile(r"[A-Za-z0-9]{9}")


class MistralFormat:
    """See the module; an ``AnswerFormat`` of calls."""

    name = "mistral"
    markers = (_OPENING, _ID, _ARGUMENTS)

    def is_of(self, template: str) -> bool:
        """See ``AnswerFormat``."""
        return _OPENING in template

    def parser(self, context: AnswerContext) -> AnswerParser:
        """See ``AnswerFormat``."""
        return GrammarParser(_answer)

    def template_id(self, call_id: str) -> str:
        """Nine letters and digits, since the templates refuse any other."""
        if _TEMPLATE_ID.fullmatch(call_id):
            return call_id
        return hashlib.sha256(call_id.encode("utf-8", "replace")).hexdigest()[:9]


def _answer(characters: Characters, parts: PartsBuilder) -> Reading[None]:
    reader = CallReader(characters, parts)
    while (yield from characters.until((_OPENING,), parts.content)) != END:
        characters.begin()
        character = yield from characters.after_spaces()
        characters.back(character)
        if character in ("[", "{"):
            yield from reader.calls(_OPENING + characters.taken)
            continue
        before = parts.calls
        try:
            yield from reader.arguments((yield from _name(characters)))
        except NotThis:
            if parts.calls == before:
                parts.content(_OPENING + characters.taken)


def _name(characters: Characters) -> Reading[str]:
    """A name, up to where its arguments begin."""
    name = ""
    while (character := (yield from characters.next())).isalnum() or (character != END and character in "_-.:/"):
        name += character
        if len(name) > MOST_NAME:
            raise NotThis
    while character.isspace():
        character = yield from characters.next()
    characters.back(character)
    if not name:
        raise NotThis
    if character == "[":
        yield from characters.expect("[")
        character = yield from characters.next()
        characters.back(character)
        if character == "C":
            yield from characters.expect(_ID[1:])
            while (character := (yield from characters.next())) != "[":
                if character == END:
                    raise NotThis
        yield from characters.expect(_ARGUMENTS[1:])
    return name
