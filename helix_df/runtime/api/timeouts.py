"""How long a client waits for its answer: by its body, its header or both."""

from __future__ import annotations

from collections.abc import Mapping

from helix_df.errors import RequestError
from helix_df.runtime.api.refusals import shortened

MAX_TIMEOUT_S = 86_400
TIMEOUT_HEADER = "X-Request-Timeout"
"""Seconds, as the field ``timeout``; for clients that can't set the field."""


def timeout_of(headers: Mapping[str, str], timeout_s: float | None) -> float | None:
    """Seconds that a request may take, by its header and its body, whichever is less; ``None`` if neither says.

    Raises:
        RequestError: when the header is no such time.
    """
    text = headers.get(TIMEOUT_HEADER.lower())
    if text is None:
        return timeout_s
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MAX_TIMEOUT_S:
        raise RequestError(
            f"the header {TIMEOUT_HEADER} is no time",
            param=TIMEOUT_HEADER,
            code="invalid_value",
            found=shortened(text),
            expected=f"seconds, a number over 0, up to {MAX_TIMEOUT_S}",
        )
    return seconds if timeout_s is None else min(seconds, timeout_s)
