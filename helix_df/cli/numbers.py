"""Lists of numbers on the command line."""

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
