"""Calls that are written as JSON objects with a name and arguments, as most families do, alone or in a list.

A call is told as soon as its name is known and its arguments begin; these are passed on as they come. What isn't a call
is found out at its first wrong character, before anything is told of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container

from helix_df.models.answer_formats.reading import END, Characters, NotThis, PartsBuilder, Reading

_ARGUMENTS = ("arguments", "parameters")
_BESIDE = ("id", "type", "index")
"""Keys that some models write, too, and that say nothing."""

MOST_NAME = 256
"""Characters of a tool's name."""


class CallReader:
    """Reads calls of an answer.

    Args:
        characters: of the answer.
        parts: where calls are told.
        names: of the tools that may be called; an object with another is no call. None: all are taken.
    """

    def __init__(self, characters: Characters, parts: PartsBuilder, names: Container[str] | None = None) -> None:
        self._characters = characters
        self._parts = parts
        self._names = names

    def calls(self, opening: str) -> Reading[None]:
        """One object or a list of them. If the first is no call, ``opening`` and what was read of it are content.

        Of a list whose later items are none, these are content.
        """
        characters = self._characters
        characters.begin()
        before = self._parts.calls
        try:
            character = yield from characters.after_spaces()
            if character != "[":
                characters.back(character)
                yield from self._object()
                return
            while True:
                yield from self._object()
                opening = ""
                characters.begin()
                character = yield from characters.after_spaces()
                if character != ",":
                    if character != "]":
                        characters.back(character)
                    return
        except NotThis:
            if self._parts.calls > before:
                opening = ""
            self._parts.content(opening + characters.taken)

    def arguments(self, name: str) -> Reading[None]:
        """The arguments of a call whose name was written before them.

        Raises:
            NotThis: when no object follows.
        """
        yield from self._characters.expect("{")
        self._parts.start(name)
        yield from self._container(self._parts.arguments)

    def _object(self) -> Reading[None]:
        """A call.

        Raises:
            NotThis: when it is none.
        """
        yield from self._characters.expect("{")
        call = _Call(self._parts, self._names)
        yield from self._fields(call)
        call.end()

    def _fields(self, call: _Call) -> Reading[None]:
        """The fields of an object up to its end. Once a call has begun, whatever is wrong ends it."""
        characters = self._characters
        while True:
            try:
                character = yield from characters.after_spaces()
                if character == "}":
                    return
                if character == ",":
                    continue
                if character != '"':
                    characters.back(character)
                    raise NotThis
                key = yield from self._string()
                yield from characters.expect(":")
                yield from self._field(key, call)
            except NotThis:
                if call.begun:
                    return
                raise

    def _field(self, key: str, call: _Call) -> Reading[None]:
        characters = self._characters
        character = yield from characters.after_spaces()
        if key in _ARGUMENTS and character == "{":
            yield from self._container(call.arguments)
            call.is_complete = True
        elif key in _ARGUMENTS and character == '"':  # JSON in a string, as in OpenAI's own messages
            call.arguments((yield from self._string()) or "{}")
            call.is_complete = True
        elif key == "function" and character == "{":
            yield from self._fields(call)
        elif key in ("name", "function") and character == '"':
            call.name((yield from self._string(MOST_NAME)))
        elif key in _BESIDE and character == '"':
            yield from self._string()
        elif key in _BESIDE or key in _ARGUMENTS:
            characters.back(character)
            if (yield from self._scalar()) != "null" and key in _ARGUMENTS:
                raise NotThis
        else:
            characters.back(character)
            raise NotThis

    def _container(self, tell: Callable[[str], None]) -> Reading[None]:
        """An object whose first bracket was read, up to its last."""
        depth, in_string, escaped = 1, False, False
        tell("{")
        while depth:
            character = yield from self._characters.next()
            if character == END:
                raise NotThis
            tell(character)
            if in_string:
                in_string = escaped or character != '"'
                escaped = character == "\\" and not escaped
            elif character == '"':
                in_string = True
            elif character in "{[":
                depth += 1
            elif character in "}]":
                depth -= 1

    def _string(self, most: int | None = None) -> Reading[str]:
        """The text of a string whose first quote was read."""
        raw: list[str] = []
        escaped = False
        while True:
            character = yield from self._characters.next()
            if character == END or (most is not None and len(raw) > most):
                raise NotThis
            if character == '"' and not escaped:
                break
            raw.append(character)
            escaped = character == "\\" and not escaped
        try:
            text: str = json.loads(f'"{"".join(raw)}"', strict=False)
            text.encode()  # half of a surrogate pair can't be sent
        except ValueError as error:
            raise NotThis from error
        return text

    def _scalar(self) -> Reading[str]:
        text = ""
        while (character := (yield from self._characters.next())) not in (END, ",", "}", "]") and len(text) < MOST_NAME:
            text += character
        self._characters.back(character)
        return text.strip()


class _Call:
    """A call as its fields come, in whatever order."""

    def __init__(self, parts: PartsBuilder, names: Container[str] | None) -> None:
        self._parts = parts
        self._names = names
        self._name: str | None = None
        self._waiting: list[str] = []
        self._has_arguments = False
        self.is_complete = False
        self.begun = False

    def name(self, name: str) -> None:
        if self._name is not None or not name or (self._names is not None and name not in self._names):
            raise NotThis
        self._name = name
        if self._waiting:
            self._begin()

    def arguments(self, text: str) -> None:
        if self.is_complete:  # a second time
            raise NotThis
        self._has_arguments = True
        if self._name is None:
            self._waiting.append(text)
            return
        self._begin()
        self._parts.arguments(text)

    def end(self) -> None:
        if self._name is None:
            raise NotThis
        self._begin()
        if not self._has_arguments:
            self._parts.arguments("{}")

    def _begin(self) -> None:
        if self.begun or self._name is None:
            return
        self.begun = True
        self._parts.start(self._name)
        self._parts.arguments("".join(self._waiting))
        self._waiting.clear()
