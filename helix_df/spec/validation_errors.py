"""What pydantic refuses, in the words of somebody who writes YAML.

Owns the translation of every validation error into a ``Mistake``; pydantic's own terms and links never reach a user.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, PlainSerializer, ValidationError
from pydantic_core import ErrorDetails

from helix_df.spec.job import Job
from helix_df.spec.mistakes import FieldPath, Mistake, Refusal, shown
from helix_df.spec.section import NAME_RULE
from helix_df.suggestions import closest

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "model_type": "a section: indented lines of 'key: value'",
    "dict_type": "a section: indented lines of 'name: …'",
    "tuple_type": "a list: [a, b, …]",
    "missing_argument": "two names: [a, b]",
}

_LIMITS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}
"""By pydantic's kind of error: where the limit is in its context, and how it limits."""


def mistakes_of(error: ValidationError, data: object, root: type[BaseModel] = Job) -> list[Mistake]:
    """Every mistake in ``data``, which is no ``root``, in the order of the file; a missing key that is only misspelt is
    told once."""
    details = error.errors(include_url=False)
    mistakes = [_mistake(detail, data, root) for detail in details]
    misspelt = {
        (*detail["loc"][:-1], near)
        for detail in details
        if detail["type"] == "extra_forbidden" and (near := _nearest(detail["loc"], root)) is not None
    }
    return [
        mistake
        for detail, mistake in zip(details, mistakes, strict=True)
        if not (detail["type"] == "missing" and detail["loc"] in misspelt)
    ]


def _mistake(detail: ErrorDetails, data: object, root: type[BaseModel]) -> Mistake:
    loc, kind = detail["loc"], detail["type"]
    if loc and loc[-1] == "[key]":
        return _bad_name(loc[:-1])
    if kind == "extra_forbidden":
        return _unknown_key(loc, root)
    if kind == "missing":
        return _missing(loc, root)
    if kind == "value_error":
        return _refused(loc, detail)
    if kind == "literal_error":
        return _not_one_of(loc, detail)
    if kind in _LIMITS:
        return _out_of_range(loc, detail, data, root)
    problem, expected = _plain(kind, detail.get("ctx", {}), detail["msg"])
    found = None if kind == "too_short" else shown(detail["input"])
    return Mistake(loc, problem, found, expected, _advice(loc, kind, detail["input"]))


def _plain(kind: str, context: Mapping[str, Any], message: str) -> tuple[str, str | None]:
    if kind == "too_short" and context.get("min_length") == 1:
        return "at least one entry is needed", None
    if kind in ("too_short", "too_long", "missing_argument"):
        return "the number of entries is wrong", str(context.get("min_length", context.get("max_length")))
    if kind == "string_too_short":
        return "the text is empty", None
    if kind in ("string_pattern_mismatch", "string_too_long"):
        return "this can't be a name", NAME_RULE
    if kind in _EXPECTED:
        return "this is of the wrong kind", _EXPECTED[kind]
    return message, None


def _out_of_range(loc: FieldPath, detail: ErrorDetails, data: object, root: type[BaseModel]) -> Mistake:
    """What has a unit is told in one: pydantic compares what was made of it."""
    key, word = _LIMITS[detail["type"]]
    limit = detail.get("ctx", {})[key]
    in_its_unit = _writer_of(loc, root)
    if in_its_unit is None:
        return Mistake(loc, "the number is out of range", shown(detail["input"]), f"{word} {limit:g}")
    found = _written(data, loc, in_its_unit(detail["input"]))
    return Mistake(loc, "this is out of range", shown(found), f"{word} {in_its_unit(limit)}")


def _written(data: Any, loc: FieldPath, otherwise: str) -> object:
    """What stands at a path of the file."""
    try:
        for part in loc:
            data = data[part]
    except (LookupError, TypeError):
        return otherwise
    return data


def _writer_of(loc: FieldPath, root: type[BaseModel]) -> Callable[[float], str] | None:
    """What writes the quantity at a path with its unit; none if it is a number."""
    section = _section(loc[:-1], root)
    field = None if section is None else section.model_fields.get(str(loc[-1]))
    if field is None:
        return None
    found = (one for one in (*field.metadata, *_annotations(field.annotation)) if isinstance(one, PlainSerializer))
    return next((one.func for one in found), None)  # type: ignore[return-value]  # each takes a number


def _annotations(annotation: Any) -> tuple[Any, ...]:
    """What a type is annotated with, also where ``None`` is allowed."""
    if typing.get_origin(annotation) is typing.Annotated:
        return tuple(annotation.__metadata__)
    return tuple(one for argument in typing.get_args(annotation) for one in _annotations(argument))


def _advice(loc: FieldPath, kind: str, value: object) -> str | None:
    if kind == "string_type" and isinstance(value, int | float):
        return "put it in quotes"
    if kind in ("int_type", "float_type") and isinstance(value, str):
        return "write the number without quotes or unit"
    if kind == "dict_type" and isinstance(value, list) and loc:
        return f"name the entries instead of listing them: '{loc[-1]}: {{a: …, b: …}}'"
    return None


def _bad_name(loc: FieldPath) -> Mistake:
    return Mistake(loc, "this can't be a name", shown(loc[-1]), NAME_RULE)


def _missing(loc: FieldPath, root: type[BaseModel]) -> Mistake:
    section = _section(loc[:-1], root)
    field = section.model_fields.get(str(loc[-1])) if section is not None else None
    if field is None:
        return Mistake(loc, "an entry is missing", None, "two names: [a, b]" if loc[-2:-1] == ("between",) else None)
    example = f", for example {field.examples[0]}" if field.examples else ""
    return Mistake(
        loc, "this key is required", None, (field.description or "").partition(". ")[0].rstrip(".") + example
    )


def _not_one_of(loc: FieldPath, detail: ErrorDetails) -> Mistake:
    if loc == ("version",):
        return Mistake(loc, "the job is written for another version of helix-df", shown(detail["input"]), "1")
    choices = str(detail.get("ctx", {}).get("expected", "")).replace("'", "")
    return Mistake(loc, "this is not one of the choices", shown(detail["input"]), choices)


def _refused(loc: FieldPath, detail: ErrorDetails) -> Mistake:
    cause = detail.get("ctx", {}).get("error")
    found = None if isinstance(detail["input"], dict) else shown(detail["input"])
    if isinstance(cause, Refusal):
        return Mistake(loc, cause.problem, found, cause.expected, cause.hint)
    return Mistake(loc, str(cause), found)


def _unknown_key(loc: FieldPath, root: type[BaseModel]) -> Mistake:
    near = _nearest(loc, root)
    known = _known_keys(loc[:-1], root)
    guess = f"; did you mean '{near}'?" if near else ""
    home = _belongs(loc, near) if root is Job else None
    return Mistake(loc, f"unknown key '{loc[-1]}'{guess}", None, " | ".join(known) or None, home)


def _belongs(loc: FieldPath, near: str | None) -> str | None:
    """Where a key is known that stands in the wrong section."""
    if near is not None:
        return None
    homes = [
        name
        for name, field in Job.model_fields.items()
        if (section := _model_in(field.annotation)) is not None and loc[-1] in section.model_fields
    ]
    alone = len(homes) == 1 and homes[0] not in ("nodes", "gpus", "offers")
    return f"'{loc[-1]}' belongs under {homes[0]}" if alone else None


def _nearest(loc: FieldPath, root: type[BaseModel]) -> str | None:
    return closest(str(loc[-1]), _known_keys(loc[:-1], root), cutoff=0.6)


def _known_keys(loc: FieldPath, root: type[BaseModel]) -> list[str]:
    section = _section(loc, root)
    return list(section.model_fields) if section is not None else []


def _section(loc: FieldPath, root: type[BaseModel]) -> type[BaseModel] | None:
    """The section of the job at a path, so that its keys can be named."""
    annotation: Any = root
    for part in loc:
        annotation = _inside(annotation, part)
    return _model_in(annotation)


def _inside(annotation: Any, part: str | int) -> Any:
    """The type of a section's field, a mapping's value or a list's entry."""
    annotation = _bare(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(str(part))
        return field.annotation if field is not None else None
    arguments = typing.get_args(annotation)
    return {dict: arguments[1:2], tuple: arguments[:1]}.get(typing.get_origin(annotation), (None,))[0]


def _bare(annotation: Any) -> Any:
    """The type without ``| None`` and without annotations."""
    while typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        annotation = next(argument for argument in typing.get_args(annotation) if argument is not types.NoneType)
    return annotation


def _model_in(annotation: Any) -> type[BaseModel] | None:
    bare = _bare(annotation)
    return bare if isinstance(bare, type) and issubclass(bare, BaseModel) else None
