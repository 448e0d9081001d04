"""How requests are refused: the words for a field that is wrong, or that isn't supported."""

from __future__ import annotations

from helix_df.errors import RequestError

MAX_REPEATED = 200
"""Characters of a client's words that an error repeats."""


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
