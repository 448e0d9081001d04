"""What becomes of a request that a worker had no KV cache left for: it is tried again, later each time, then given up.

A node overfills when requests generate more than was expected. Whoever is rejected starts over and reserves all that
it can come to; but what the others hold has to be freed first, which takes as long as their answers. So each further
try waits twice as long as the one before. Plain numbers.
"""

from __future__ import annotations

MOST_REJECTIONS = 10
"""After so many a request fails: for about 25 s there was no room where there should have been."""

FIRST_BACKOFF_S = 0.05
"""Seconds that a request waits after its first rejection."""


def gives_up(rejections: int) -> bool:
    """Whether a request that was rejected so often fails."""
    return rejections >= MOST_REJECTIONS


def backoff_s(rejections: int) -> float:
    """Seconds that a request waits after its last of so many rejections, one at least."""
    return float(FIRST_BACKOFF_S * 2.0 ** (rejections - 1))
