"""Thoughts between marks at the beginning of an answer; or from its beginning, where the prompt has set the first."""

from __future__ import annotations

from functools import partial

from helix_df.models.answer_formats.api import AnswerContext, AnswerParser
from helix_df.models.answer_formats.reading import END, Characters, GrammarParser, PartsBuilder, Reading


class ThinkingFormat:
    """An ``AnswerFormat`` of thoughts.

    Args:
        name: of the format.
        opening: the mark before a thought.
        closing: the mark after it.
    """

    def __init__(self, name: str, opening: str, closing: str) -> None:
        self.name = name
        self.markers = (opening, closing)

    def is_of(self, template: str) -> bool:
        """See ``AnswerFormat``."""
        return self.markers[0] in template

    def parser(self, context: AnswerContext) -> AnswerParser:
        """See ``AnswerFormat``."""
        return GrammarParser(partial(_answer, *self.markers, context.opens_thinking))

    def template_id(self, call_id: str) -> str:
        """See ``AnswerFormat``."""
        return call_id


THINK = ThinkingFormat("think", "<think>", "</think>")
"""Of Qwen 3, DeepSeek R1, SmolLM3 and many others."""

MAGISTRAL = ThinkingFormat("magistral", "[THINK]", "[/THINK]")


def opens_thinking(prompt: str) -> bool:
    """Whether a rendered prompt ends with the mark before a thought, as some templates write it."""
    end = prompt[-64:].rstrip()
    return any(end.endswith(one.markers[0]) for one in (THINK, MAGISTRAL))


def _answer(
    opening: str, closing: str, opens_thinking: bool, characters: Characters, parts: PartsBuilder
) -> Reading[None]:
    if opens_thinking or (yield from _begins(opening, characters, parts)):
        thought = _Thought(parts)
        if (yield from characters.until((closing,), thought.add)) == END:
            return
        parts.drop_spaces()
    yield from characters.until((), parts.content)


def _begins(opening: str, characters: Characters, parts: PartsBuilder) -> Reading[bool]:
    """Whether the answer begins with this mark; what is read of it otherwise is content."""
    characters.begin()
    character = yield from characters.after_spaces()
    for at, wanted in enumerate(opening):
        if at:
            character = yield from characters.next()
        if character != wanted:
            characters.back(character)
            parts.content(characters.taken)
            return False
    return True


class _Thought:
    """The words of a thought, without the white space around them."""

    def __init__(self, parts: PartsBuilder) -> None:
        self._parts = parts
        self._spaces = ""
        self._begun = False

    def add(self, text: str) -> None:
        words = text.rstrip()
        if words:
            self._parts.reasoning(self._spaces + words if self._begun else words.lstrip())
            self._spaces, self._begun = "", True
        if self._begun:
            self._spaces += text[len(words) :]
