"""One simulation of the search, given up as soon as it is clearly behind a baseline's.

Throughput of a saturated cluster comes in waves: requests that came in together end together, and their successors'
prompts then hold up everybody's steps. So short windows mislead, but two placements that get the same requests are in
about the same phase and can be compared at any time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

TokenCurve = tuple[tuple[float, float], ...]
"""Simulated seconds and the tokens generated in the window until then, in ascending order."""

APART_S = 15.0
"""Between the points of a curve."""

HEAD_START_S = 90.0
"""Of the window that nobody is judged by."""

SLACK = 0.1
"""How far behind the baseline one may be at first, as a share; none at the end. What is seen to be caught up."""


class Runner(Protocol):
    """A simulation on its way."""

    @property
    def decode_tokens(self) -> int:
        """Generated tokens in the window so far."""
        ...

    def advance(self, until_s: float) -> bool:
        """Run until a simulated second; whether there is more to come."""
        ...


@dataclass(frozen=True, slots=True)
class RaceResult:
    """What a simulation of the search found; ``tokens_per_s`` is 0 if it didn't reach the end."""

    tokens_per_s: float
    curve: TokenCurve

    @property
    def tokens(self) -> float:
        """Generated in the window until it ended or was given up."""
        return self.curve[-1][1] if self.curve else 0.0


def race(runner: Runner, warmup_s: float, seconds: float, baseline: TokenCurve, stop: Callable[[], bool]) -> RaceResult:
    """Simulate until the end of the window, until asked to stop, or until far behind ``baseline``."""
    curve: list[tuple[float, float]] = []
    until_s = warmup_s
    while runner.advance(until_s):
        curve.append((until_s, runner.decode_tokens))
        gone_s = until_s - warmup_s
        slack = SLACK * (1 - gone_s / seconds)
        behind = runner.decode_tokens < (1 - slack) * tokens_at(baseline, until_s)
        if stop() or (gone_s >= HEAD_START_S and behind):
            return RaceResult(0.0, tuple(curve))
        until_s += APART_S
    curve.append((warmup_s + seconds, runner.decode_tokens))
    return RaceResult(runner.decode_tokens / seconds, tuple(curve))


def tokens_at(curve: TokenCurve, time_s: float) -> float:
    """Tokens at a time between the points of a curve; 0 outside of them."""
    at = bisect_left(curve, (time_s, 0))
    if at == len(curve):
        return 0.0
    if curve[at][0] == time_s:
        return curve[at][1]
    if at == 0:
        return 0.0
    (before_s, before), (after_s, after) = curve[at - 1], curve[at]
    return before + (after - before) * (time_s - before_s) / (after_s - before_s)
