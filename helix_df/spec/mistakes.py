"""What is wrong with a job, before it is known on which line: a value's refusal, and a mistake at a field path."""

from __future__ import annotations

from dataclasses import dataclass

FieldPath = tuple[str | int, ...]
"""Keys and list positions from the top of the job to a field."""


class Refusal(ValueError):
    """A value that can't be meant: what is wrong, what would be right, and what to do about it.

    A ``ValueError``, because that is what pydantic's validators may raise; the loader adds the place and the value.
    """

    def __init__(self, problem: str, expected: str | None = None, hint: str | None = None) -> None:
        super().__init__(f"{problem}; expected {expected}" if expected else problem)
        self.problem = problem
        self.expected = expected
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Mistake:
    """A mistake at a field. ``found`` is text as the user wrote it, or ``None`` where showing it says nothing."""

    path: FieldPath
    problem: str
    found: str | None = None
    expected: str | None = None
    hint: str | None = None


def dotted(path: FieldPath) -> str:
    """``nodes.a100.gpu`` or ``links.nodes[3].between``; empty for the top of the job."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def shown(value: object) -> str:
    """A value as a user would recognise it in the YAML."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, dict):
        return "a mapping of " + (", ".join(str(key) for key in list(value)[:5]) or "nothing")
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
