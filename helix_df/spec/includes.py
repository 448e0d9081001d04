"""Job files that take parts from other files: ``include: [gpus.yaml, sites/paris.yaml]``.

Owns reading these files and the one rule by which they become a document. Sections are merged key by key. What the
including file says goes before what its parts say, and two parts don't say the same thing: there is no order in which
one of them would win. Doesn't know what the keys mean.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from helix_df.errors import SpecError
from helix_df.spec.mistakes import FieldPath, Mistake, dotted, shown
from helix_df.spec.places import FileLine, Places
from helix_df.spec.yaml_tree import YamlDocument, one_or_all, parse_yaml

INCLUDE = "include"

MOST_FILES = 1000
"""That a job may be spread over."""


def read_text(path: Path, where: str, what: str) -> str:
    """The text of a file.

    Args:
        path: of the file.
        where: who names it, for errors.
        what: the file as a user would call it: ``a job file``.

    Raises:
        SpecError: when it can't be read.
    """
    found = None if where == str(path) else str(path)
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError("there is no such file", where=where, found=found, expected=f"{what} in YAML") from None
    except IsADirectoryError:
        raise SpecError("this is a directory", where=where, found=found, expected=f"{what} in YAML") from None
    except OSError as error:
        raise SpecError("the file can't be read", where=where, found=error.strerror) from error
    except UnicodeDecodeError as error:
        raise SpecError("the file is not text in UTF-8", where=where, found=str(error)) from error


def parse_whole(text: str, name: str, folder: Path, environment: Mapping[str, str]) -> YamlDocument:
    """Parse YAML with all that it includes.

    Args:
        text: of the file.
        name: of the file, for errors.
        folder: where relative paths in it start.
        environment: variables that values may ask for.

    Raises:
        SpecError: as ``parse_yaml``, with the file that is at fault; for files that can't be read or include
            themselves; for what two of them say.
    """
    return _Includes(environment).whole(parse_yaml(text, name, environment), folder, (name,))


class _Includes:
    """Reads each file once, however often it is included."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._known: dict[str, YamlDocument] = {}

    def whole(self, document: YamlDocument, folder: Path, within: tuple[str, ...]) -> YamlDocument:
        """A document with its parts; ``within`` are the files on the way to it, and itself."""
        here = Places(document.name, document.places.lines, {document.name: folder})
        own = YamlDocument(document.name, document.data, here, document.texts)
        if not isinstance(document.data, dict) or INCLUDE not in document.data:
            return own
        parts = [self._part(own, folder, path, asked, within) for path, asked in _asked(own)]
        return _Merger(own, parts).document()

    def _part(
        self, own: YamlDocument, folder: Path, path: FieldPath, asked: str, within: tuple[str, ...]
    ) -> YamlDocument:
        file = Path(os.path.normpath(folder / Path(asked).expanduser()))
        name = str(file)
        if any(_is_same(file, other) for other in within):
            raise own.error(Mistake(path, "these files include each other", " → ".join((*within, name))))
        if name not in self._known:
            if len(self._known) >= MOST_FILES:
                raise own.error(Mistake(path, f"the job is spread over more than {MOST_FILES:,} files"))
            text = read_text(file, own.places.where(path), "a part of a job")
            parsed = parse_yaml(text, name, self._environment)
            if parsed.data is not None and not isinstance(parsed.data, dict):
                raise SpecError(
                    "this is not a part of a job", where=name, found=shown(parsed.data), expected="sections of a job"
                )
            self._known[name] = self.whole(parsed, file.parent, (*within, name))
        return self._known[name]


def _asked(own: YamlDocument) -> list[tuple[FieldPath, str]]:
    """The files that a document includes, with where it says so."""
    assert isinstance(own.data, dict)
    said = own.data[INCLUDE]
    if isinstance(said, str):
        return [((INCLUDE,), said)]
    expected = "a file, or a list of files: [gpus.yaml, sites/paris.yaml]"
    if not isinstance(said, list):
        raise own.error(Mistake((INCLUDE,), "this is of the wrong kind", shown(said), expected))
    for i, file in enumerate(said):
        if not isinstance(file, str) or not file:
            raise own.error(Mistake((INCLUDE, i), "this is of the wrong kind", shown(file), "a file"))
    return [((INCLUDE, i), file) for i, file in enumerate(said)]


def _is_same(one: Path, other: str) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return str(one) == other


class _Merger:
    """A document and its parts on the way to one; a part has its own parts in it already."""

    def __init__(self, own: YamlDocument, parts: Sequence[YamlDocument]) -> None:
        self._own, self._parts = own, parts
        self._lines: dict[FieldPath, FileLine] = {}
        self._texts: dict[FieldPath, str] = {}
        self._errors: list[SpecError] = []

    def document(self) -> YamlDocument:
        assert isinstance(self._own.data, dict)
        said = {key: value for key, value in self._own.data.items() if key != INCLUDE}
        of_parts = [(part, part.data) for part in self._parts if part.data is not None]
        data = self._merged((), [(self._own, said)], of_parts)
        if self._errors:
            raise one_or_all(self._errors)
        folders = {name: path for one in (*self._parts, self._own) for name, path in one.places.folders.items()}
        return YamlDocument(self._own.name, data, Places(self._own.name, self._lines, folders), self._texts)

    def _merged(
        self, path: FieldPath, own: list[tuple[YamlDocument, object]], parts: list[tuple[YamlDocument, object]]
    ) -> object:
        """What stands at a path: ``own`` has what the including file says, if anything, ``parts`` what its parts do."""
        self._check(path, own, parts)
        said = [*own, *parts]
        first, value = said[0]
        if not isinstance(value, dict):
            self._take(first, path, value)
            return value
        if path in first.places.lines:
            self._lines[path] = first.places.lines[path]
        sections = [(document, found) for document, found in said if isinstance(found, dict)]
        # In the order of a file in which the parts stand before all else.
        keys = dict.fromkeys(key for _, found in (*sections[len(own) :], *sections[: len(own)]) for key in found)
        merged = {}
        for key in keys:
            values = [(document, found[key]) for document, found in sections if key in found]
            of_own = values[:1] if own and values[0][0] is self._own else []
            merged[key] = self._merged((*path, key), of_own, values[len(of_own) :])
        return merged

    def _check(
        self, path: FieldPath, own: list[tuple[YamlDocument, object]], parts: list[tuple[YamlDocument, object]]
    ) -> None:
        """Two parts may both have a section, or be one; anything else is for the including file to decide."""
        if all(isinstance(value, dict) for _, value in parts) or (own and not isinstance(own[0][1], dict)):
            return
        places = list(dict.fromkeys(document.places.near(path) for document, _ in parts))
        if len(places) > 1:
            first, second = places[:2]
            self._errors.append(
                SpecError(
                    f"{first} says this, too, and neither file goes before the other",
                    where=f"{second}: {dotted(path)}",
                    hint=f"say it in {self._own.name}, which goes before both, or in one of them",
                )
            )

    def _take(self, document: YamlDocument, path: FieldPath, value: object) -> None:
        """Whole, with the places of all that is in it."""
        if path in document.places.lines:
            self._lines[path] = document.places.lines[path]
        if path in document.texts:
            self._texts[path] = document.texts[path]
        for key, inner in (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        ):
            self._take(document, (*path, key), inner)
