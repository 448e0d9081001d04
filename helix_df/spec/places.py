"""Where the fields of a job are written down: files and lines, found by field path.

Owns the wording of a place, and how it gets into errors that know the path alone. Doesn't read files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from helix_df.errors import HelixError, SpecErrors
from helix_df.spec.mistakes import FieldPath, dotted

_NO_PATH = re.compile(r"[\s:/]|\.(?:ya?ml|json)$")
"""What a place with a line, or a file, has and a field's path hasn't."""

_LAST_PART = re.compile(r"(?:\.[^.\[\]]+|\[\d+\])$")


@dataclass(frozen=True, slots=True)
class FileLine:
    """A 1-based line of a file; ``file`` is its name for errors."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """The places of a job's fields, by path. ``file`` is the job's own; ``""`` stands for a job that is in none.

    ``declared_as`` has the entry of each node that isn't one itself. ``folders`` has the folder of each file, where
    relative paths in it start. All are equal, since where a job was written down makes it no other job.
    """

    file: str = ""
    lines: Mapping[FieldPath, FileLine] = field(default_factory=dict)
    folders: Mapping[str, Path] = field(default_factory=dict)
    declared_as: Mapping[str, str] = field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Places)

    def __hash__(self) -> int:
        return 0

    def __reduce__(self) -> tuple[type[Places], tuple[()]]:
        """Other processes get a job without its places, which may be many."""
        return Places, ()

    def near(self, path: FieldPath) -> FileLine | None:
        """The place of a field, or of the nearest part around it that is written down."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)

    def where(self, path: FieldPath) -> str:
        """``job.yaml:12: nodes.a100.gpu``; without a file the path alone."""
        return self._told(dotted(path), self.near(path))

    def folder_of(self, path: FieldPath) -> Path:
        """Where a relative path that stands at a field starts; by default here."""
        place = self.near(path)
        return self.folders.get(self.file if place is None else place.file, Path())

    def without(self, section: str) -> Places:
        """The places of all but one section, whose values no longer come from the file."""
        return replace(self, lines={path: place for path, place in self.lines.items() if path[:1] != (section,)})

    @contextmanager
    def told(self) -> Iterator[None]:
        """Errors from inside that name a field of the job say where that is written down."""
        try:
            yield
        except HelixError as error:
            self._place(error)
            raise

    def _place(self, error: HelixError) -> None:
        if isinstance(error, SpecErrors):
            for single in error.errors:
                self._place(single)
        elif self.file and error.where is not None:
            error.where = self._found(error.where)

    def _found(self, where: str) -> str:
        """What an error says, with the line of the field if it names one; of the entry, for one of many nodes."""
        if _NO_PATH.search(where):
            return where
        shown = self._as_declared(where)
        by_text = {dotted(path): place for path, place in self.lines.items()}
        asked = shown
        while asked and asked not in by_text:
            shorter = _LAST_PART.sub("", asked)
            asked = "" if shorter == asked else shorter
        return self._told(shown, by_text[asked]) if asked else where

    def _as_declared(self, where: str) -> str:
        node = where.removeprefix("nodes.")
        if node != where:
            for name, key in self.declared_as.items():
                if node == name or node.startswith(f"{name}."):
                    return f"nodes.{key}{node.removeprefix(name)}"
        return where

    def _told(self, path: str, place: FileLine | None) -> str:
        at = self.file if place is None else str(place)
        return f"{at}: {path}" if at and path else at or path


NOWHERE = Places()
"""Of a job that wasn't read from a file."""
