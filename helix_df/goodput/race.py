"""One simulation of the search, given up as soon as it is clearly behind a rival's.

Throughput of a saturated cluster comes in waves: requests that came in together end together, and their successors'
prompts then hold up everybody's steps. So short windows mislead, but two placements that get the same requests are in
about the same phase and can be compared at any time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

Pace = tuple[tuple[float, float], ...]
"""Simulated seconds and the tokens generated in the window until then, in ascending order."""

APART_S = 15.0
"""Between the points of a pace."""

HEAD_START_S = 90.0
"""Of the window that nobody is judged by."""

SLACK = 0.1
"""How far behind a rival one may be at first, as a share; none at the end. What is seen to be caught up."""


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
class Run:
    """What a simulation of the search found; ``tokens_per_s`` is 0 if it didn't reach the end."""

    tokens_per_s: float
    pace: Pace


def race(runner: Runner, warmup_s: float, seconds: float, rival: Pace, stop: Callable[[], bool]) -> Run:
    """Simulate until the end of the window, until asked to stop, or until far behind ``rival``."""
    pace: list[tuple[float, float]] = []
    until_s = warmup_s
    while runner.advance(until_s):
        pace.append((until_s, runner.decode_tokens))
        gone_s = until_s - warmup_s
        slack = SLACK * (1 - gone_s / seconds)
        behind = runner.decode_tokens < (1 - slack) * tokens_at(rival, until_s)
        if stop() or (gone_s >= HEAD_START_S and behind):
            return Run(0.0, tuple(pace))
        until_s += APART_S
    pace.append((warmup_s + seconds, runner.decode_tokens))
    return Run(runner.decode_tokens / seconds, tuple(pace))


def tokens_at(pace: Pace, time_s: float) -> float:
    """Tokens at a time between the points of a pace; 0 outside of them."""
    at = bisect_left(pace, (time_s, 0))
    if at == len(pace):
        return 0.0
    if pace[at][0] == time_s:
        return pace[at][1]
    if at == 0:
        return 0.0
    (before_s, before), (after_s, after) = pace[at - 1], pace[at]
    return before + (after - before) * (time_s - before_s) / (after_s - before_s)
