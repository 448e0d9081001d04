"""Calls in a section, between special tokens: DeepSeek V3's and V3.1's, and Kimi K2's.

A section holds calls one behind the other; each has a head, which names the tool, and its arguments. The forms are
those of the chat templates of deepseek-ai/DeepSeek-V3-0324, deepseek-ai/DeepSeek-V3.1 and moonshotai/Kimi-K2-Instruct.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from helix_df.models.answer_formats.api import AnswerContext, AnswerParser
from helix_df.models.answer_formats.call_objects import MOST_NAME, CallReader
from helix_df.models.answer_formats.reading import END, Characters, GrammarParser, NotThis, PartsBuilder, Reading

_FENCE, _FENCE_END = "```json", "```"


@dataclass(frozen=True)
class SectionFormat:
    """An ``AnswerFormat`` of calls.

    Args:
        name: by which it is registered.
        section: what begins a section, and what ends it.
        call: what begins a call, and what ends it.
        separator: what stands between a call's head and its arguments.
        tool: the tool's name, of a head; ``""`` where it follows in a line of its own, with arguments between fences.
    """

    name: str
    section: tuple[str, str]
    call: tuple[str, str]
    separator: str
    tool: Callable[[str], str]

    @property
    def markers(self) -> tuple[str, ...]:
        """See ``AnswerFormat``."""
        return (*self.section, *self.call, self.separator)

    def is_of(self, template: str) -> bool:
        """See ``AnswerFormat``."""
        return self.call[0] in template and self.separator in template

    def parser(self, context: AnswerContext) -> AnswerParser:
        """See ``AnswerFormat``."""
        return GrammarParser(partial(_answer, self))

    def template_id(self, call_id: str) -> str:
        """See ``AnswerFormat``."""
        return call_id


def _tool_of_deepseek(head: str) -> str:
    return "" if head == "function" else head


def _tool_of_kimi(head: str) -> str:
    """Of ``functions.NAME:NUMBER``."""
    name, _, number = head.removeprefix("functions.").rpartition(":")
    if not name or not number.isdecimal():
        raise NotThis
    return name


DEEPSEEK = SectionFormat(
    "deepseek_v3",
    ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    ("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"),
    "<｜tool▁sep｜>",
    _tool_of_deepseek,
)
KIMI = SectionFormat(
    "kimi_k2",
    ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
    ("<|tool_call_begin|>", "<|tool_call_end|>"),
    "<|tool_call_argument_begin|>",
    _tool_of_kimi,
)


def _answer(form: SectionFormat, characters: Characters, parts: PartsBuilder) -> Reading[None]:
    begins, ends = form.section
    while (found := (yield from characters.until((begins, form.call[0]), parts.content))) != END:
        characters.begin()
        before = parts.calls
        try:
            if found == begins:
                yield from characters.expect(form.call[0])
            yield from _call(form, characters, parts)
            while (yield from characters.expect_one((form.call[0], ends))) != ends:
                yield from _call(form, characters, parts)
        except NotThis:
            parts.content(characters.taken if parts.calls > before else found + characters.taken)


def _call(form: SectionFormat, characters: Characters, parts: PartsBuilder) -> Reading[None]:
    """A call, from its head to its end; what is ``taken`` then begins behind what was told."""
    tool = form.tool((yield from _head(characters, form.separator)))
    is_fenced = not tool
    if is_fenced:
        tool = yield from _line(characters)
        yield from characters.expect(_FENCE)
    told = parts.calls
    try:
        yield from CallReader(characters, parts).arguments(tool)
    finally:
        if parts.calls > told:
            characters.begin()
    if is_fenced:
        yield from characters.expect(_FENCE_END)
    yield from characters.expect(form.call[1])
    characters.begin()


def _head(characters: Characters, separator: str) -> Reading[str]:
    head: list[str] = []
    while not "".join(head).endswith(separator):
        character = yield from characters.next()
        head.append(character)
        if character in (END, "\n") or len(head) > MOST_NAME:
            characters.back(character)
            raise NotThis
    return "".join(head).removesuffix(separator).strip()


def _line(characters: Characters) -> Reading[str]:
    line = ""
    while (character := (yield from characters.next())) != "\n":
        line += character
        if character == END or len(line) > MOST_NAME:
            characters.back(character)
            raise NotThis
    if not line.strip():
        raise NotThis
    return line.strip()
