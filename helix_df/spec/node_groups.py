"""Names and addresses of nodes that are declared together: a text with ``{n}``, which stands for each one's number."""

from __future__ import annotations

import re

MOST_NODES = 100_000
"""That one entry may stand for."""

NUMBER = re.compile(r"\{n(?::0([1-9]))?\}")
"""``{n}``, or ``{n:03}`` for numbers of three digits at least."""


def has_number(text: str) -> bool:
    """Whether a text is another one for each node."""
    return NUMBER.search(text) is not None


def numbered(text: str, number: int) -> str:
    """The text of the node of this number."""
    return NUMBER.sub(lambda match: f"{number:0{match[1] or 1}}", text)


def names_of(key: str, count: int | None, names: str | None) -> list[str]:
    """What the nodes of an entry are called: as ``names`` says, or ``KEY-1``, ``KEY-2`` …; its key if there is one."""
    if count is None:
        return [key]
    return [numbered(names or f"{key}-{{n}}", number) for number in range(1, count + 1)]
