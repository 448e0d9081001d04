"""One simulation of the search, given up as soon as it is clearly behind a rival's.

Throughput of a saturated cluster comes in waves: requests that came in together end together, and their successors'
prompts then hold up everybody's steps. So short windows mislead, but two placements that get the same requests are in
about the same phase and can be compared at any time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

from helix_df.simulator.options import Options
from helix_df.simulator.setup import Setup
from helix_df.simulator.trace import Trace
from helix_df.simulator.world import World

Pace = tuple[tuple[float, int], ...]
"""Simulated seconds and the tokens generated in the window until then, in ascending order."""

APART_S = 15.0
"""Between the points of a pace, at least."""

HEAD_START_S = 90.0
"""Of the window that nobody is judged by."""

SLACK = 0.15
"""How far behind a rival one may be at first, as a share; none at the end. What is seen to be caught up."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a simulation of the search found; ``tokens_per_s`` is 0 if it didn't reach the end."""

    tokens_per_s: float
    pace: Pace


def race(setup: Setup, trace: Trace, options: Options, rival: Pace, stop: Callable[[], bool]) -> Run:
    """Simulate until the end, until asked to stop, or until far behind ``rival``."""
    world = World(setup, trace, options)
    watch = _Runner(world, rival, stop)
    stopped = world.run(watch)
    watch.note(options.end_s)
    return Run(0.0 if stopped else world.decode_tokens / options.seconds, tuple(watch.pace))


class _Runner:
    """Looks at a world now and then, notes its pace and compares it."""

    def __init__(self, world: World, rival: Pace, stop: Callable[[], bool]) -> None:
        self.world, self.rival, self.stop = world, rival, stop
        self.warmup_s, self.seconds = world.options.warmup_s, world.options.seconds
        self.pace: list[tuple[float, int]] = []

    def note(self, now_s: float) -> None:
        self.pace.append((now_s, self.world.decode_tokens))

    def looks(self, now_s: float, end_s: float) -> bool:
        if self.stop():
            return False
        if now_s < self.warmup_s or (self.pace and now_s < self.pace[-1][0] + APART_S):
            return True
        self.note(now_s)
        gone_s = now_s - self.warmup_s
        slack = SLACK * (1 - gone_s / self.seconds)
        return gone_s < HEAD_START_S or self.world.decode_tokens >= (1 - slack) * tokens_at(self.rival, now_s)


def tokens_at(pace: Pace, time_s: float) -> float:
    """Tokens at a time between the points of a pace; 0 outside of them."""
    at = bisect_left(pace, (time_s, 0))
    if not 0 < at < len(pace):
        return 0.0
    (before_s, before), (after_s, after) = pace[at - 1], pace[at]
    return before + (after - before) * (time_s - before_s) / (after_s - before_s)
