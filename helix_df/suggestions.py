"""What somebody may have meant by a name that isn't known.

Owns the one rule of every "did you mean": a known name that begins with what was written, else the one most like it.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

CLOSE = 0.5
"""Likeness (of ``difflib``) from which a name is suggested."""


def closest(name: str, known: Iterable[str], cutoff: float = CLOSE) -> str | None:
    """The first known name that begins with ``name``; else the one most alike; ``None`` if none is alike.

    Case doesn't matter: ``h100`` is the beginning of ``H100-80GB``, which is closer than ``H200``.
    """
    return next(iter(alike(name, known, 1, cutoff)), None)


def alike(name: str, known: Iterable[str], most: int, cutoff: float = 0.0) -> list[str]:
    """At most so many known names: those that begin with ``name`` in their order, then those most alike."""
    written = name.lower()
    folded = {other.lower(): other for other in known}
    longer = [other for other in folded if written and other.startswith(written)]
    near = get_close_matches(written, folded, n=most, cutoff=cutoff)
    return [folded[other] for other in dict.fromkeys([*longer, *near])][:most]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'H100-80GB'?`` to follow a sentence, or nothing."""
    near = closest(name, known)
    return f"; did you mean {near!r}?" if near is not None else ""
