"""Llama 3's calls: JSON objects with ``name`` and ``parameters`` that the answer begins with, or that follow on
``<|python_tag|>``; several are parted by semicolons or white space."""

from __future__ import annotations

from functools import partial

from helix_df.models.answer_formats.api import AnswerContext, AnswerParser
from helix_df.models.answer_formats.call_objects import CallReader
from helix_df.models.answer_formats.reading import END, Characters, GrammarParser, PartsBuilder, Reading

_TAG = "<|python_tag|>"


class Llama3Format:
    """See the module; an ``AnswerFormat`` of calls."""

    name = "llama3"
    markers = (_TAG,)

    def is_of(self, template: str) -> bool:
        """See ``AnswerFormat``."""
        return _TAG in template or ("<|start_header_id|>" in template and '"parameters"' in template)

    def parser(self, context: AnswerContext) -> AnswerParser:
        """See ``AnswerFormat``."""
        return GrammarParser(partial(_answer, context.tools))

    def template_id(self, call_id: str) -> str:
        """See ``AnswerFormat``."""
        return call_id


def _answer(tools: tuple[str, ...], characters: Characters, parts: PartsBuilder) -> Reading[None]:
    # Without a mark only a tool that there is makes JSON a call: the answer itself may be JSON.
    yield from _run(CallReader(characters, parts, tools), "", characters, parts)
    while (yield from characters.until((_TAG,), parts.content)) != END:
        yield from _run(CallReader(characters, parts), _TAG, characters, parts)


def _run(reader: CallReader, opening: str, characters: Characters, parts: PartsBuilder) -> Reading[None]:
    """Calls one after another."""
    while True:
        characters.begin()
        while (character := (yield from characters.next())).isspace() or (character == ";" and not opening):
            pass
        characters.back(character)
        if character != "{":
            parts.content(opening + characters.taken)
            return
        before, between = parts.calls, characters.taken
        yield from reader.calls(opening + between)
        if parts.calls == before:
            return
        opening = ""
