"""An answer's parser put together: thoughts first, then calls in what is left; it may end after one call."""

from __future__ import annotations

from dataclasses import dataclass

from helix_df.models.answer_formats.api import (
    AnswerContext,
    AnswerFormat,
    AnswerParser,
    CallStart,
    Content,
    Part,
)


@dataclass(frozen=True, slots=True)
class AnswerFormats:
    """How a model writes calls and thoughts; None where its answers have none, or nobody asks."""

    tools: AnswerFormat | None = None
    reasoning: AnswerFormat | None = None

    def used(self, has_tools: bool) -> tuple[AnswerFormat, ...]:
        """Those that an answer is read with, in turn; one that reads both comes once."""
        found = [] if self.reasoning is None else [self.reasoning]
        if has_tools and self.tools is not None and self.tools not in found:
            found.append(self.tools)
        return tuple(found)

    def markers(self, has_tools: bool) -> frozenset[str]:
        """The special tokens that these have to see."""
        return frozenset(marker for one in self.used(has_tools) for marker in one.markers)

    def parser(self, context: AnswerContext, one_call: bool = False) -> AnswerReader | None:
        """A parser for one answer, if there is anything to read but text.

        Args:
            context: what the answer follows on.
            one_call: whether it ends with its first call.
        """
        used = self.used(bool(context.tools))
        return AnswerReader(tuple(one.parser(context) for one in used), one_call) if used else None


class AnswerReader:
    """An ``AnswerParser`` made of several, each of which reads what is content to the one before.

    ``is_over`` once nothing that comes belongs to the answer.
    """

    def __init__(self, stages: tuple[AnswerParser, ...], one_call: bool) -> None:
        self._stages = stages
        self._one_call = one_call
        self.calls = 0
        self.is_over = False

    def push(self, text: str) -> tuple[Part, ...]:
        """See ``AnswerParser``."""
        return self._told(self._through([Content(text)] if text else []))

    def finish(self) -> tuple[Part, ...]:
        """See ``AnswerParser``."""
        parts: list[Part] = []
        for at in range(len(self._stages)):
            parts += self._through(self._stages[at].finish(), at + 1)
        return self._told(parts)

    def _through(self, parts: list[Part], first: int = 0) -> list[Part]:
        for stage in self._stages[first:]:
            parts = [
                made for part in parts for made in (stage.push(part.text) if isinstance(part, Content) else [part])
            ]
        return parts

    def _told(self, parts: list[Part]) -> tuple[Part, ...]:
        told: list[Part] = []
        for part in parts:
            if isinstance(part, CallStart):
                if self._one_call and self.calls:
                    self.is_over = True
                self.calls += not self.is_over
            if not self.is_over:
                told.append(part)
        return tuple(told)
