"""Hermes' and Qwen's calls: ``<tool_call>`` around a JSON object with ``name`` and ``arguments``."""

from __future__ import annotations

from helix_df.models.answer_formats.api import AnswerContext, AnswerParser
from helix_df.models.answer_formats.call_objects import CallReader
from helix_df.models.answer_formats.reading import END, Characters, GrammarParser, NotThis, PartsBuilder, Reading

_OPENING, _CLOSING = "<tool_call>", "</tool_call>"


class HermesFormat:
    """See the module; an ``AnswerFormat`` of calls."""

    name = "hermes"
    markers = (_OPENING, _CLOSING)

    def is_of(self, template: str) -> bool:
        """See ``AnswerFormat``. Qwen 3 Coder writes other things between the same marks."""
        return _OPENING in template and "<function=" not in template and "<arg_key>" not in template

    def parser(self, context: AnswerContext) -> AnswerParser:
        """See ``AnswerFormat``."""
        return GrammarParser(_answer)

    def template_id(self, call_id: str) -> str:
        """See ``AnswerFormat``."""
        return call_id


def _answer(characters: Characters, parts: PartsBuilder) -> Reading[None]:
    reader = CallReader(characters, parts)
    while (yield from characters.until((_OPENING,), parts.content)) != END:
        before = parts.calls
        yield from reader.calls(_OPENING)
        if parts.calls > before:
            characters.begin()
            try:
                yield from characters.expect(_CLOSING)
            except NotThis:
                parts.content(characters.taken)
