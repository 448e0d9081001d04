"""Values of options that typer has no type for: lists of whole numbers, and times with a unit.

Owns how they are refused: with the option's name, what was found and what would work.
"""

from __future__ import annotations


def whole_numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    """``1,4,8`` as numbers; ``None`` stays.

    Raises:
        SpecError: for anything else.
    """
    from helix_df.errors import SpecError

    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) >= 1 for part in parts):
        raise SpecError(
            "this is not a list of sizes", where=option, found=text, expected="whole numbers from 1, such as 1,4,8"
        )
    return tuple(int(part) for part in parts)


def duration(option: str, text: str) -> float:
    """Seconds of ``30s`` or ``2min``.

    Raises:
        SpecError: without a unit of time, or for a negative one.
    """
    from helix_df.errors import SpecError
    from helix_df.spec.mistakes import Refusal
    from helix_df.spec.units import parse_duration

    try:
        return parse_duration(text)
    except Refusal as error:
        raise SpecError(error.problem, where=option, found=repr(text), expected=error.expected) from None


def time_limit(text: str | None, option: str = "--time-limit") -> float | None:
    """Seconds of a time limit; ``None`` stays.

    Raises:
        SpecError: as ``duration``, and for zero.
    """
    from helix_df.errors import SpecError

    if text is None:
        return None
    seconds = duration(option, text)
    if seconds <= 0:
        raise SpecError("the time limit must be above zero", where=option, found=repr(text))
    return seconds
