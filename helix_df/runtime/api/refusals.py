"""How requests are refused: the words for a field that is wrong, or that isn't supported."""

from __future__ import annotations

from collections.abc import Sequence

from helix_df.errors import RequestError

MAX_REPEATED = 200
"""Characters of a client's words that an error repeats."""
MAX_NAMED = 20
"""Parameters that an error names."""


def shortened(text: object) -> str:
    """What a client sent, as far as an error repeats it."""
    words = str(text)
    return words if len(words) <= MAX_REPEATED else f"{words[:MAX_REPEATED]}…"


def invalid(name: str, why: str) -> RequestError:
    """The error for a parameter with a value that it can't have."""
    return RequestError(f"Invalid value for '{name}': {why}.", param=name, code="invalid_value")


def unsupported(name: str, what: str = "") -> RequestError:
    """The error for a parameter that OpenAI's API has and this one hasn't."""
    phrase = f"'{name}' {what}".strip()
    return RequestError(
        f"Unsupported parameter: {phrase} is not supported by this server.", param=name, code="unsupported_parameter"
    )


def refused_names(not_supported: Sequence[str], unknown: Sequence[str]) -> RequestError:
    """The error for parameters that aren't supported, or that nobody knows: all of them at once."""
    if len(not_supported) == 1 and not unknown:
        return unsupported(not_supported[0])
    words = []
    if not_supported:
        words.append(f"Unsupported parameters: {_listed(not_supported)} are not supported by this server.")
    if unknown:
        words.append(f"Unknown parameter{'s' if len(unknown) > 1 else ''}: {_listed(unknown)}.")
    code = "unsupported_parameter" if not_supported else "unknown_parameter"
    return RequestError(" ".join(words), param=shortened([*not_supported, *unknown][0]), code=code)


def _listed(names: Sequence[str]) -> str:
    words = [f"'{shortened(name)}'" for name in names[:MAX_NAMED]]
    return ", ".join(words if len(names) <= MAX_NAMED else [*words, f"{len(names) - MAX_NAMED} more"])
