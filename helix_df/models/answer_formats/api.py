"""The parts of an answer, and what every format of answers must do.

Doesn't know tokens: a format reads text as it comes, cut anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Content:
    """Words for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Words that the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """Here a call of a tool begins; ``index`` counts those of the answer from 0."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of the arguments of the call that began last: JSON as the model wrote it, valid or not."""

    index: int
    text: str


Part = Content | Reasoning | CallStart | CallArguments


@dataclass(frozen=True, slots=True)
class AnswerContext:
    """What an answer follows on: the names of the tools that it may call; whether its prompt has begun a thought;
    ``tool/parameter`` for each parameter that is a text by its tool's schema."""

    tools: tuple[str, ...] = ()
    opens_thinking: bool = False
    texts: tuple[str, ...] = ()


class AnswerParser(Protocol):
    """Reads one answer. However its text is cut, the parts joined are the same; no text at all is an error."""

    def push(self, text: str) -> list[Part]:
        """The parts that are clear once this text has come."""
        ...

    def finish(self) -> list[Part]:
        """What was held back, now that nothing follows."""
        ...


class AnswerFormat(Protocol):
    """How some models write their thoughts, their calls or both.

    ``markers`` are the special tokens that it is written with, which plain text leaves away. One that reads both is
    registered as both, under one name.
    """

    @property
    def name(self) -> str:
        """By which it is registered."""
        ...

    @property
    def markers(self) -> Sequence[str]:
        """See above."""
        ...

    def is_of(self, template: str) -> bool:
        """Whether a chat template (its Jinja source) is of a model that writes so."""
        ...

    def parser(self, context: AnswerContext) -> AnswerParser:
        """A parser for one answer."""
        ...

    def template_id(self, call_id: str) -> str:
        """The id of a call as the templates of these models take it."""
        ...
