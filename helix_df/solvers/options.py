"""A solver's own options: from the user's free-form mapping to a frozen dataclass, with mistakes explained.

Owns the check of names and types. Doesn't know any solver.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from helix_df.errors import SolverError
from helix_df.solvers.api import SolveOptions
from helix_df.suggestions import closest

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """A hint that names the known word most like ``name``, if one is."""
    near = closest(name, known)
    return f"did you mean {near!r}?" if near is not None else None


def read_extra(solver: str, extra: Mapping[str, Any], shape: type[T], ignore: Iterable[str] = ()) -> T:
    """``solver.options`` as an instance of the dataclass ``shape``, whose fields have defaults.

    Args:
        solver: name of the solver, for messages.
        extra: what the user wrote; a class attribute ``renamed`` of the shape maps names of before to those of today.
        shape: frozen dataclass of ``bool``, ``int``, ``float``, ``str`` or literal words as fields; a default of
            ``None`` makes one optional.
        ignore: names that belong to somebody else.

    Raises:
        SolverError: for a name that ``shape`` doesn't have, or a value of another type.
    """
    hints = get_type_hints(shape)
    known = [field.name for field in fields(shape)]  # type: ignore[arg-type]
    defaults = {field.name: field.default for field in fields(shape)}  # type: ignore[arg-type]
    values = {}
    for name, value in extra.items():
        if name in ignore:
            continue
        name = getattr(shape, "renamed", {}).get(name, name)
        if name not in known:
            raise SolverError(
                f"the solver {solver} has no option {name!r}",
                where=f"solver.options.{name}",
                expected=f"one of {', '.join(known)}" if known else "no options",
                hint=nearest(name, known),
            )
        values[name] = _typed(solver, name, value, hints[name], defaults[name])
    return shape(**values)


_EXPECTED = {"bool": "true or false", "int": "a whole number ≥ 0", "float": "a number ≥ 0", "str": "a word"}


def _typed(solver: str, name: str, value: object, hint: object, default: object) -> object:
    if get_origin(hint) is Literal:
        return _one_of(solver, name, value, get_args(hint))
    kinds = {"bool": bool, "int": int, "float": float, "str": str}
    wanted = next(word for word in kinds if word in str(hint))
    if value is None and default is None and default is not MISSING:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = {
        "bool": isinstance(value, bool),
        "int": isinstance(value, int) and not isinstance(value, bool) and value >= 0,
        "float": is_number and isinstance(value, int | float) and value >= 0,
        "str": isinstance(value, str),
    }[wanted]
    if not fits:
        raise SolverError(
            f"the option {name} of the solver {solver} has the wrong type",
            where=f"solver.options.{name}",
            found=repr(value),
            expected=_EXPECTED[wanted],
        )
    return kinds[wanted](value)


def _one_of(solver: str, name: str, value: object, words: tuple[str, ...]) -> object:
    if value in words:
        return value
    raise SolverError(
        f"the option {name} of the solver {solver} has no such choice",
        where=f"solver.options.{name}",
        found=repr(value),
        expected=" or ".join(words),
        hint=nearest(value, words) if isinstance(value, str) else None,
    )


def refuse_backend(solver: str, options: SolveOptions) -> None:
    """For solvers without backends.

    Raises:
        SolverError: when the user asks for one.
    """
    if options.backend is not None:
        raise SolverError(
            f"the solver {solver} has no backends",
            where="solver.backend",
            found=options.backend,
            hint="leave it out, or use the solver mip",
        )
