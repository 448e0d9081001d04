"""YAML text to plain data that remembers the line of every key.

Owns what YAML this project accepts: one document of mappings with text keys, lists and scalars; no tags, no duplicate
keys, no alias bombs. Scalars may ask for variables of the environment (``variables``). Doesn't know what the keys mean.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from helix_df.errors import SpecError, SpecErrors
from helix_df.spec.mistakes import FieldPath, Mistake, Refusal, dotted, shown
from helix_df.spec.places import FileLine, Places
from helix_df.spec.variables import NO_VARIABLES, START, asks, filled, is_one_variable

MAX_BYTES = 16 * 2**20
MAX_VALUES = 500_000
MAX_DEPTH = 50

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
# YAML 1.1 wants a dot and a sign in exponents; people don't.
_NUMBER = re.compile(r"[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+")
_NOUNS = {"nodes": "node", "gpus": "GPU type"}
_KINDS = {"null": "nothing", "bool": "a boolean", "int": "a number", "float": "a number", "timestamp": "a date"}


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """Plain data, and where each field stands.

    ``texts`` has, by path, the text of each variable that was read as a number or the like, for fields that want text.
    """

    name: str
    data: object
    places: Places
    texts: Mapping[FieldPath, str] = field(default_factory=dict)

    def error(self, mistake: Mistake) -> SpecError:
        """The mistake with its place."""
        return SpecError(
            mistake.problem,
            where=self.places.where(mistake.path),
            found=mistake.found,
            expected=mistake.expected,
            hint=mistake.hint,
        )


def one_or_all(errors: list[SpecError]) -> SpecError:
    """The only error, or all of them as one."""
    return errors[0] if len(errors) == 1 else SpecErrors(tuple(errors))


def parse_yaml(text: str, name: str, environment: Mapping[str, str] = NO_VARIABLES) -> YamlDocument:
    """Parse YAML; ``name`` is the file's name for errors, ``environment`` has the variables that scalars may ask for.

    Raises:
        SpecError: with the line, for text that isn't YAML or goes beyond what is accepted.
    """
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise SpecError("the job file is too large", where=name, expected=f"at most {MAX_BYTES // 2**20} MiB")
    loader = None
    try:
        _check_depth(text, name)
        loader = _Loader(text)
        root = loader.get_single_node()
        return _YamlReader(loader, name, environment).document(root)
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, text, name) from None
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        raise SpecError("the file holds a character that YAML forbids", where=f"{name}:{line}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else 1
        raise SpecError("the file holds a character that YAML forbids", where=f"{name}:{line}") from None
    finally:
        if loader is not None:
            loader.dispose()


def _check_depth(text: str, name: str) -> None:
    """Refuse deep nesting while it is still a flat stream of events: composing recurses in C, and may crash."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                line = event.start_mark.line + 1 if event.start_mark is not None else 1
                raise SpecError(f"the YAML is nested more than {MAX_DEPTH} deep", where=f"{name}:{line}")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _syntax_error(error: yaml.MarkedYAMLError, text: str, name: str) -> SpecError:
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return SpecError("this is not valid YAML", where=name, found=str(error.problem))
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    return SpecError(
        "this is not valid YAML",
        where=f"{name}:{mark.line + 1}",
        found=line.strip().replace("\t", "⇥")[:80] or "the end of the file",
        hint=_syntax_hint(str(error.problem), line),
    )


def _syntax_hint(problem: str, line: str) -> str:
    indent = line[: len(line) - len(line.lstrip())]
    if "\t" in indent or ("cannot start any token" in problem and "\t" in line):
        return "indent with spaces; YAML forbids tabs"
    if "another document" in problem:
        return "remove the '---' that starts a second document"
    if "alias" in problem:
        return "an alias (*name) needs its anchor (&name) further up; text that starts with * or & needs quotes"
    if "mapping values are not allowed" in problem:
        return "align this line with its siblings, and put text that holds ': ' in quotes"
    if "cannot start any token" in problem or "escape" in problem:
        return "put text that starts with % @ ` or a quote in quotes"
    if "end of stream" in problem:
        return "a quote or bracket further up isn't closed"
    if START in line:
        return 'between braces a variable needs quotes: "${env:NAME}"'
    if "','" in problem:
        return "between brackets, separate entries with commas and close the bracket"
    if "expected ':'" in problem:
        return "write 'key: value', with a space after the colon"
    return "align this line with its siblings; sections are told by indentation"


class _YamlReader:
    """Turns composed nodes into data, with everything that is wrong about keys collected."""

    def __init__(self, loader: Any, name: str, environment: Mapping[str, str]) -> None:
        self._loader = loader
        self._name = name
        self._environment = environment
        self._lines: dict[FieldPath, FileLine] = {}
        self._texts: dict[FieldPath, str] = {}
        self._errors: list[SpecError] = []
        self._values = 0
        self._open: set[int] = set()

    def document(self, root: yaml.Node | None) -> YamlDocument:
        data = None if root is None else self._value(root, ())
        if self._errors:
            raise one_or_all(self._errors)
        return YamlDocument(self._name, data, Places(self._name, self._lines), self._texts)

    def _value(self, node: yaml.Node, path: FieldPath) -> object:
        self._values += 1
        if self._values > MAX_VALUES:
            raise self._fail(node, (), f"the job holds more than {MAX_VALUES:,} values once aliases are expanded")
        if id(node) in self._open or len(self._open) > MAX_DEPTH:
            raise self._fail(node, (), "an alias holds itself, or aliases nest too deep")
        self._open.add(id(node))
        try:
            return self._content(node, path)
        finally:
            self._open.discard(id(node))

    def _content(self, node: yaml.Node, path: FieldPath) -> object:
        if isinstance(node, yaml.MappingNode):
            self._expect_tag(node, path, "map")
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            self._expect_tag(node, path, "seq")
            return [self._item(child, (*path, index)) for index, child in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self._scalar(node, path)

    def _item(self, node: yaml.Node, path: FieldPath) -> object:
        self._lines[path] = self._place(node)
        return self._value(node, path)

    def _mapping(self, node: yaml.MappingNode, path: FieldPath) -> dict[str, object]:
        merged: dict[str, object] = {}
        own: dict[str, object] = {}
        written: dict[str, int] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                for name, value in self._merge(value_node, path).items():
                    merged.setdefault(name, value)
                continue
            key = self._key(key_node, path)
            if key in written:
                self._errors.append(self._duplicate(key_node, path, key, written[key]))
            written[key] = _line(key_node)
            self._lines[*path, key] = self._place(key_node)
            own[key] = self._value(value_node, (*path, key))
        return merged | own

    def _merge(self, node: yaml.Node, path: FieldPath) -> dict[str, object]:
        """What ``<<: *anchor`` (or a list of anchors, the first one first) brings in."""
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        merged: dict[str, object] = {}
        for child in nodes:
            value = self._value(child, path)
            if not isinstance(value, dict):
                raise self._fail(child, path, "'<<' merges mappings only")
            merged = value | merged
        return merged

    def _key(self, node: yaml.Node, path: FieldPath) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self._fail(node, path, "a key must be text, not a list or mapping")
        kind = node.tag.removeprefix(_TAG)
        if kind != "str":
            what = _KINDS.get(kind, f"a {kind}")
            raise self._fail(
                node, path, f"the key {node.value} reads as {what}, not as text", f'put it in quotes: "{node.value}"'
            )
        text: str = node.value
        if asks(text):
            raise self._fail(node, path, f"the key {text} asks for a variable", "variables stand in values only")
        return text

    def _scalar(self, node: yaml.ScalarNode, path: FieldPath) -> object:
        if node.tag == _TAG + "str" and asks(node.value):
            return self._with_variables(node, path)
        return self._plain(node, path)

    def _with_variables(self, node: yaml.ScalarNode, path: FieldPath) -> object:
        """The value once variables are in it: what it reads as, if it is one variable and nothing else, or unquoted."""
        try:
            text = filled(node.value, self._environment)
        except Refusal as refusal:
            where = self._where(node, path)
            self._errors.append(
                SpecError(refusal.problem, where=where, found=shown(node.value), expected=refusal.expected)
            )
            return None
        if node.style and not is_one_variable(node.value):
            return text
        tag = self._loader.resolve(yaml.ScalarNode, text, (True, False))
        value = self._plain(yaml.ScalarNode(tag, text, node.start_mark, node.end_mark), path)
        if not isinstance(value, str):
            self._texts[path] = text
        return value

    def _plain(self, node: yaml.ScalarNode, path: FieldPath) -> object:
        kind, text = node.tag.removeprefix(_TAG), node.value
        if kind == "str" and not node.style and _NUMBER.fullmatch(text):
            number = float(text)
            return number if math.isfinite(number) else text
        if kind in ("str", "timestamp") or (kind in ("int", "float") and ":" in text):
            return text  # 2024-01-01 and 12:30 are text here, whatever YAML 1.1 says
        if kind not in ("null", "bool", "int", "float"):
            raise self._fail(node, path, f"the tag {node.tag.replace(_TAG, '!!')} isn't accepted", "write plain values")
        try:
            value: object = self._loader.construct_object(node)
        except (ValueError, LookupError):  # an explicit !!int before what is none
            return text
        return value

    def _expect_tag(self, node: yaml.Node, path: FieldPath, kind: str) -> None:
        if node.tag != _TAG + kind:
            tag = node.tag.replace(_TAG, "!!")
            raise self._fail(node, path, f"the tag {tag} isn't accepted", "write plain values")

    def _duplicate(self, node: yaml.Node, path: FieldPath, key: str, first: int) -> SpecError:
        noun = _NOUNS.get(str(path[-1]), "key") if len(path) == 1 else "key"
        twice = f"{noun} '{key}' is declared twice, lines {first} and {_line(node)}"
        return self._fail(node, (*path, key), twice, "rename or remove one of them")

    def _fail(self, node: yaml.Node, path: FieldPath, problem: str, hint: str | None = None) -> SpecError:
        return SpecError(problem, where=self._where(node, path), hint=hint)

    def _place(self, node: yaml.Node) -> FileLine:
        return FileLine(self._name, _line(node))

    def _where(self, node: yaml.Node, path: FieldPath) -> str:
        return f"{self._place(node)}: {dotted(path)}" if path else str(self._place(node))


def _line(node: yaml.Node) -> int:
    line: int = node.start_mark.line
    return line + 1
