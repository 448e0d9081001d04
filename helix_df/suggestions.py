"""What somebody may have meant by a name that isn't known.

Owns the one rule of every "did you mean": a known name that begins with what was written, else the one most like it.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

CLOSE = 0.5
"""Likeness (of ``difflib``) from which a name is suggested."""


def closest(name: str, known: Iterable[str], cutoff: float = CLOSE) -> str | None:
    """The known name that ``name`` begins, the shortest of several; else the most alike; ``None`` if none is alike.

    Case doesn't matter: ``h100`` is the beginning of ``H100-80GB``, which is closer than ``H200``.
    """
    written = name.lower()
    folded = {other.lower(): other for other in known}
    longer = sorted((other for other in folded if written and other.startswith(written)), key=lambda o: (len(o), o))
    alike = longer or get_close_matches(written, folded, n=1, cutoff=cutoff)
    return folded[alike[0]] if alike else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'H100-80GB'?`` to follow a sentence, or nothing."""
    near = closest(name, known)
    return f"; did you mean {near!r}?" if near is not None else ""
