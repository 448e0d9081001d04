"""Harmony, as gpt-oss writes: messages in channels, of which ``analysis`` is thought and ``final`` the answer; one that
is addressed to ``functions.NAME`` is a call."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from helix_df.models.answer_formats.api import AnswerContext, AnswerParser
from helix_df.models.answer_formats.reading import END, Characters, GrammarParser, PartsBuilder, Reading

_MESSAGE, _CHANNEL, _START = "<|message|>", "<|channel|>", "<|start|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>", _START)
_RECIPIENT = re.compile(r"\bto=(?P<room>functions\.)?(?P<name>[^\s<]+)")


class HarmonyFormat:
    """See the module; an ``AnswerFormat`` of calls and thoughts alike."""

    name = "harmony"
    markers = (_MESSAGE, _CHANNEL, "<|constrain|>", *_ENDS)

    def is_of(self, template: str) -> bool:
        """See ``AnswerFormat``."""
        return _CHANNEL in template and _MESSAGE in template

    def parser(self, context: AnswerContext) -> AnswerParser:
        """See ``AnswerFormat``."""
        return GrammarParser(partial(_answer, bool(context.tools)))

    def template_id(self, call_id: str) -> str:
        """See ``AnswerFormat``."""
        return call_id


def _answer(has_tools: bool, characters: Characters, parts: PartsBuilder) -> Reading[None]:
    heads = 0
    while True:
        letters: list[str] = []
        found = yield from characters.until((_MESSAGE,), letters.append)
        head = "".join(letters)
        if found == END:
            if not heads and _CHANNEL not in head:  # no messages at all, but text
                parts.content(head)
            return
        heads += 1
        if (yield from characters.until(_ENDS, _teller(head, has_tools, parts))) == END:
            return


def _teller(head: str, has_tools: bool, parts: PartsBuilder) -> Callable[[str], None]:
    """Where the words of a message go, by what stands before it."""
    recipient = _RECIPIENT.search(head)
    if recipient is not None and recipient["room"] and has_tools:
        parts.start(recipient["name"])
        return parts.arguments
    _, _, channel = head.rpartition(_CHANNEL)
    return parts.reasoning if channel.strip().startswith("analysis") else parts.content
