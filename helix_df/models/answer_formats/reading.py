"""Parsers as coroutines over characters: a grammar asks for the next one, so where a text is cut can't matter.

Owns looking ahead, taking back and putting parts together. Doesn't know any format.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

from helix_df.models.answer_formats.api import CallArguments, CallStart, Content, Part, Reasoning

T = TypeVar("T")
Reading = Generator[str | None, str, T]
"""A coroutine that is sent characters and comes to a ``T``. It asks for the next one by None, or for as many at once as
there are before the next of the characters that it names."""

END = ""
"""The character after the last."""


class NotThis(Exception):
    """The text isn't what was tried to be read."""


class Characters:
    """The characters of an answer, one after another, for grammars."""

    def __init__(self) -> None:
        self._back: list[str] = []
        self._ended = False
        self._taken: list[str] = []

    def next(self) -> Reading[str]:
        """The next character; ``END`` again and again at the end."""
        if self._back:
            character = self._back.pop()
        elif self._ended:
            return END
        else:
            character = yield None
            if character == END:
                self._ended = True
                return END
        self._taken.append(character)
        return character

    def run(self, stops: str) -> Reading[str]:
        """The next characters up to one of ``stops``, as many as there are, or that one; ``END`` at the end."""
        if self._back or self._ended:
            return (yield from self.next())
        characters = yield stops
        self._ended = characters == END
        if characters:
            self._taken.append(characters)
        return characters

    def back(self, character: str) -> None:
        """Take back the character that came last: it comes again."""
        if character != END:
            self._taken.pop()
            self._back.append(character)

    def begin(self) -> None:
        """What is ``taken`` counts from here."""
        self._taken.clear()

    @property
    def taken(self) -> str:
        """The characters since ``begin``."""
        return "".join(self._taken)

    def after_spaces(self) -> Reading[str]:
        """The next character that isn't white space."""
        while (character := (yield from self.next())).isspace():
            pass
        return character

    def expect(self, wanted: str) -> Reading[None]:
        """The next characters but white space before them, which must be these.

        Raises:
            NotThis: when they aren't; the one that isn't comes again.
        """
        yield from self.expect_one((wanted,))

    def expect_one(self, wanted: Sequence[str]) -> Reading[str]:
        """The one of these that is next, but for white space before it; none may be the beginning of another.

        Raises:
            NotThis: as ``expect``.
        """
        character = yield from self.after_spaces()
        held = character
        while held not in wanted:
            if character == END or not any(one.startswith(held) for one in wanted):
                self.back(character)
                raise NotThis
            character = yield from self.next()
            held += character
        return held

    def until(self, markers: Sequence[str], tell: Callable[[str], None]) -> Reading[str]:
        """The first of these markers, or ``END``; what comes before is told, as soon as it can't begin one.

        No marker may be a part of another.
        """
        held, firsts = "", "".join(marker[0] for marker in markers)
        while True:
            character = yield from (self.next() if held else self.run(firsts))
            if character == END:
                tell(held)
                return END
            if not held and character not in firsts:
                tell(character)
                continue
            held += character
            while held and held not in markers and not any(marker.startswith(held) for marker in markers):
                tell(held[0])
                held = held[1:]
            if held in markers:
                return held


class PartsBuilder:
    """Puts the parts of an answer together. White space around calls is how they are laid out, and no content."""

    def __init__(self) -> None:
        self._made: list[Part] = []
        self._kind: type[Content] | type[Reasoning] | type[CallArguments] | None = None
        self._text: list[str] = []
        self._spaces = ""
        self._drops_spaces = False
        self.calls = 0

    def content(self, text: str) -> None:
        """Words for the user."""
        words = text.rstrip()
        if words:
            self._say(Content, words.lstrip() if self._drops_spaces else self._spaces + words)
            self._spaces, self._drops_spaces = "", False
        if not self._drops_spaces:
            self._spaces += text[len(words) :]

    def reasoning(self, text: str) -> None:
        """Words of a thought."""
        self._say(Reasoning, text)

    def drop_spaces(self) -> None:
        """Leave away the white space that was held back, and what follows."""
        self._spaces, self._drops_spaces = "", True

    def start(self, name: str) -> None:
        """A call begins."""
        self.drop_spaces()
        self._close()
        self._made.append(CallStart(self.calls, name))
        self.calls += 1

    def arguments(self, text: str) -> None:
        """A piece of the arguments of the last call."""
        self._say(CallArguments, text)

    def take(self) -> list[Part]:
        """What was made since the last time."""
        self._close()
        made, self._made = self._made, []
        return made

    def end(self) -> list[Part]:
        """The rest."""
        if self._spaces:
            self._say(Content, self._spaces)
            self._spaces = ""
        return self.take()

    def _say(self, kind: type[Content] | type[Reasoning] | type[CallArguments], text: str) -> None:
        if kind is not self._kind:
            self._close()
            self._kind = kind
        self._text.append(text)

    def _close(self) -> None:
        text = "".join(self._text)
        if text and self._kind is CallArguments:
            self._made.append(CallArguments(self.calls - 1, text))
        elif text and self._kind is not None:
            self._made.append(Content(text) if self._kind is Content else Reasoning(text))
        self._kind, self._text = None, []


class GrammarParser:
    """An ``AnswerParser`` for a grammar, which reads all of an answer."""

    def __init__(self, grammar: Callable[[Characters, PartsBuilder], Reading[None]]) -> None:
        self._parts = PartsBuilder()
        self._grammar = grammar(Characters(), self._parts)
        self._stops = next(self._grammar)

    def push(self, text: str) -> list[Part]:
        """See ``AnswerParser``."""
        at = 0
        while at < len(text):
            stop = at + 1 if self._stops is None else max(at + 1, _first_of(self._stops, text, at))
            self._stops = self._grammar.send(text[at:stop])
            at = stop
        return self._parts.take()

    def finish(self) -> list[Part]:
        """See ``AnswerParser``."""
        try:
            self._grammar.send(END)
        except StopIteration:
            return self._parts.end()
        raise AssertionError("a grammar goes on past the end")


def _first_of(stops: str, text: str, at: int) -> int:
    """Where the first of these characters is in a text, from a place on; its length if it has none."""
    found = (text.find(stop, at) for stop in stops)
    return min((place for place in found if place >= 0), default=len(text))
