"""What the field of a message may be, checked to its last leaf: types, ranges, lengths.

A kind is a function: it takes a value as msgpack gives it and returns it as the program holds it, or raises a
``FrameError`` that knows the way to the leaf at fault. Kinds are put together from kinds. Doesn't know messages, nor
what a receiver knows of its job.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np

from helix_df.errors import HelixError, ProtocolError

FrameFault = Literal["stranger", "version", "size", "unreadable", "unknown", "field", "untrue", "unasked"]
"""Why a frame is refused: it lacks the job's secret; it is of another protocol; it has too many bytes or messages; it
can't be unpacked; there is no such message; a field isn't what it may be; it may, but not in this job; nobody here
waits for such a message."""

T = TypeVar("T")

Kind = Callable[[Any], T]

Named = Sequence[tuple[str, Kind[Any]]]
"""Fields by name, in their order."""

WRONG_FIELDS = "a message with wrong fields"

MOST_INT = 2**63 - 1


class FrameError(ProtocolError):
    """A frame that is refused. ``fault`` is its kind; ``request`` the attempt that it names, if its sender knew the
    job's secret and it names one."""

    def __init__(
        self,
        problem: str,
        fault: FrameFault = "field",
        *,
        where: str | None = None,
        found: object = None,
        expected: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(problem, where=where, found=found, expected=expected, hint=hint)
        self.fault = fault
        self.request: str | None = None

    def under(self, step: str) -> FrameError:
        """The same, seen from one step further out."""
        if self.where is None:
            self.where = step
        else:
            self.where = f"{step}{'' if self.where.startswith('[') else '.'}{self.where}"
        return self


def wrong(value: object, expected: str) -> FrameError:
    """The error of a leaf that isn't what it may be."""
    return FrameError(WRONG_FIELDS, found=shown(value), expected=expected)


def shown(value: object) -> str:
    """A stranger's value in a few words, however large it is."""
    if isinstance(value, bytes | memoryview):
        return f"{len(value)} bytes"
    return f"{_short.repr(value)} ({type(value).__name__})"


_short = reprlib.Repr()
_short.maxlevel, _short.maxdict, _short.maxlist, _short.maxstring, _short.maxother = 2, 3, 4, 60, 60


def text(most: int, least: int = 1) -> Kind[str]:
    """Text of ``least`` to ``most`` characters."""

    def kind(value: Any) -> str:
        if type(value) is str and least <= len(value) <= most:
            return value
        raise wrong(value, f"text of {least} to {most} characters")

    return kind


def whole(least: int = 0, most: int = MOST_INT) -> Kind[int]:
    """A whole number in a range; true and false are none."""

    def kind(value: Any) -> int:
        if type(value) is int and least <= value <= most:
            return value
        raise wrong(value, f"a whole number, {least} to {most}")

    return kind


def token_ids(value: Any) -> tuple[int, ...]:
    """Token ids as ``packed_ids`` packs them, four bytes each."""
    if type(value) is bytes and len(value) % 4 == 0:
        ids = np.frombuffer(value, "<i4")
        if not len(ids) or int(ids.min()) >= 0:
            return tuple(ids.tolist())
    raise wrong(value, "token ids, four bytes each")


def packed_ids(ids: Sequence[int]) -> bytes:
    """Token ids as a field has them: far fewer bytes, and sooner read, than a list of numbers."""
    return np.array(ids, "<i4").tobytes()


def number(least: float = -math.inf, most: float = math.inf) -> Kind[float]:
    """A finite number in a range."""

    def kind(value: Any) -> float:
        if type(value) in (float, int) and least <= value <= most and math.isfinite(value):
            return float(value)
        raise wrong(value, f"a finite number, {least} to {most}")

    return kind


def flag(value: Any) -> bool:
    """True or false."""
    if value is True or value is False:
        return value is True
    raise wrong(value, "true or false")


def one_of(*words: str) -> Kind[Any]:
    """One of some words."""
    known = frozenset(words)

    def kind(value: Any) -> Any:
        if type(value) is str and value in known:
            return value
        raise wrong(value, " or ".join(words))

    return kind


def optional(kind: Kind[T]) -> Kind[T | None]:
    """What ``kind`` says, or nothing."""
    return lambda value: None if value is None else kind(value)


def many(one: Kind[T], most: int, least: int = 0) -> Kind[tuple[T, ...]]:
    """A list of ``least`` to ``most`` of one kind."""

    def kind(value: Any) -> tuple[T, ...]:
        if type(value) not in (list, tuple) or not least <= len(value) <= most:
            raise wrong(value, f"a list of {least} to {most}")
        items: list[T] = []
        try:
            for item in value:
                items.append(one(item))  # how many there are says which one was wrong
        except FrameError as error:
            raise error.under(f"[{len(items)}]") from None
        return tuple(items)

    return kind


def row(build: Callable[..., T], **kinds: Kind[Any]) -> Kind[T]:
    """A list with exactly these fields in this order, made into what ``build`` makes of them."""
    named = tuple(kinds.items())

    def kind(value: Any) -> T:
        if type(value) not in (list, tuple) or len(value) != len(named):
            raise wrong(value, f"a list of {', '.join(kinds)}")
        return _built(build, checked(named, value))

    return kind


def record(build: Callable[..., T], **kinds: Kind[Any]) -> Kind[T]:
    """A map with exactly these fields, made into what ``build`` makes of them."""
    named = tuple(kinds.items())

    def kind(value: Any) -> T:
        return _built(build, checked(named, values_of(named, value)))

    return kind


def values_of(named: Named, value: Any) -> list[Any]:
    """The values of a map with exactly the fields of these names."""
    if type(value) is dict and len(value) == len(named):
        try:
            return [value[name] for name, _ in named]
        except KeyError:
            pass
    raise wrong(value, f"a map of {', '.join(name for name, _ in named) or 'nothing'}")


def checked(named: Named, values: Sequence[Any]) -> list[Any]:
    """What the kinds make of as many values."""
    done: list[Any] = []
    try:
        for (_, kind), value in zip(named, values, strict=True):
            done.append(kind(value))
    except FrameError as error:
        raise error.under(named[len(done)][0]) from None
    return done


def _built(build: Callable[..., T], values: list[Any]) -> T:
    """What ``build`` makes of values; what it refuses itself is a wrong field, too."""
    try:
        return build(*values)
    except FrameError:
        raise
    except (ValueError, HelixError) as error:
        raise FrameError(WRONG_FIELDS, found=str(error).replace("\n", "; ")[:200]) from error


def document(depth: int, elements: int) -> Kind[Mapping[str, Any]]:
    """A map of maps, lists and plain values, of bounded depth and number of values; what they mean is checked later."""

    def kind(value: Any) -> Mapping[str, Any]:
        if type(value) is not dict:
            raise wrong(value, "a map")
        layer: list[Any] = [value]
        left = elements
        for _ in range(depth):
            layer = [item for one in layer for item in _inside(one)]
            left -= len(layer)
            if left < 0:
                raise FrameError(WRONG_FIELDS, found="more values", expected=f"at most {elements}")
            if not layer:
                return value
        raise FrameError(WRONG_FIELDS, found="a deeper map", expected=f"at most {depth} levels")

    return kind


def _inside(value: Any) -> list[Any]:
    if type(value) is dict:
        if not all(type(key) is str for key in value):
            raise wrong(list(value), "names as keys")
        return list(value.values())
    if type(value) is list:
        return value
    if value is None or type(value) in (str, int, bool) or (type(value) is float and math.isfinite(value)):
        return []
    raise wrong(value, "a plain value")
