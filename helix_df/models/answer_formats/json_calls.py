"""The form for models that have none of their own: a JSON object with ``name`` and ``arguments``, or a list of such.

It begins a line, may stand in a Markdown fence or between Hermes' marks, and names a tool that there is.
"""

from __future__ import annotations

from functools import partial

from helix_df.models.answer_formats.api import AnswerContext, AnswerParser
from helix_df.models.answer_formats.call_objects import CallReader
from helix_df.models.answer_formats.reading import END, Characters, GrammarParser, NotThis, PartsBuilder, Reading

_FENCE = "```"
_OPENINGS = ("<tool_call>", f"{_FENCE}json", f"{_FENCE}tool_call", f"{_FENCE}\n")
_CLOSINGS = {"<": "</tool_call>", "`": _FENCE}


class JsonFormat:
    """See the module; an ``AnswerFormat`` of calls."""

    name = "json"
    markers = ("<tool_call>", "</tool_call>")

    def is_of(self, template: str) -> bool:
        """No template is of such models: this is for all the others."""
        return False

    def parser(self, context: AnswerContext) -> AnswerParser:
        """See ``AnswerFormat``."""
        return GrammarParser(partial(_answer, context.tools))

    def template_id(self, call_id: str) -> str:
        """See ``AnswerFormat``."""
        return call_id


def _answer(tools: tuple[str, ...], characters: Characters, parts: PartsBuilder) -> Reading[None]:
    reader = CallReader(characters, parts, tools)
    found = yield from _line(reader, characters, parts)
    while found != END:
        parts.content(found)
        found = yield from (_line(reader, characters, parts) if found == "\n" else characters.next())


def _line(reader: CallReader, characters: Characters, parts: PartsBuilder) -> Reading[str]:
    """Calls, if a line begins with any; the character that comes then."""
    characters.begin()
    character = yield from characters.after_spaces()
    characters.back(character)
    parts.content(characters.taken)
    if character in ("{", "["):
        yield from _calls(reader, "", characters, parts)
    elif character in _CLOSINGS:
        characters.begin()
        opening = yield from _opening(characters)
        if opening is None:
            parts.content(characters.taken)
        else:
            yield from _calls(reader, opening, characters, parts)
    return (yield from characters.next())


def _calls(reader: CallReader, opening: str, characters: Characters, parts: PartsBuilder) -> Reading[None]:
    before = parts.calls
    yield from reader.calls(opening)
    if parts.calls == before or not opening:
        return
    characters.begin()
    try:
        yield from characters.expect(_CLOSINGS[opening[0]])
    except NotThis:
        parts.content(characters.taken)


def _opening(characters: Characters) -> Reading[str | None]:
    """What stands before calls in a fence or between marks, if this is it."""
    read = ""
    while any(opening.startswith(read) for opening in _OPENINGS):
        if read in _OPENINGS:
            return read
        character = yield from characters.next()
        if character == END:
            return None
        read += character
    characters.back(read[-1])
    return None
