"""A simulation that goes on when it is told to, for whoever looks at many and ends most of them early.

Owns the choice between the compiled event loop, under the rules that it knows, and the other one; both find the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from helix_df.simulator.compiled.plant import Records, can_compile, wanted_of
from helix_df.simulator.compiled.quick import Overflow, QuickRun
from helix_df.simulator.options import Options
from helix_df.simulator.setup import Setup
from helix_df.simulator.trace import Trace
from helix_df.simulator.world import World


@dataclass(frozen=True)
class Course:
    """A trace and the rules to run it by, for many setups."""

    trace: Trace
    options: Options

    @cached_property
    def wanted(self) -> Records:
        """The requests as the compiled loop wants them."""
        return wanted_of(self.trace, self.options)


class Stepwise:
    """One setup on a course."""

    def __init__(self, setup: Setup, course: Course) -> None:
        self.setup, self.course = setup, course
        self._run: QuickRun | World
        if can_compile(course.options):
            self._run = QuickRun(setup, course.trace, course.options, course.wanted)
        else:
            self._run = self._world()

    def _world(self) -> World:
        return World(self.setup, self.course.trace, self.course.options)

    def advance(self, until_s: float) -> bool:
        """Run until a simulated second; whether there is more to come."""
        try:
            return self._run.advance(until_s)
        except Overflow:
            self._run = self._world()
            return self._run.advance(until_s)

    @property
    def decode_tokens(self) -> int:
        """Generated tokens that came home in the window so far."""
        return self._run.decode_tokens

    @property
    def turned_away(self) -> float:
        """Share of requests that were turned away or given up so far."""
        if isinstance(self._run, World):
            outcome = self._run.meter.outcome(stopped=False)
            return outcome.rejected / max(len(outcome.requests), 1)
        return self._run.rejected / max(self._run.arrived, 1)

    def percentile(self, figure: str, percent: float) -> float:
        """A percentile of ``ttft`` or ``itl`` in seconds, as an outcome's; NaN when there is nothing to take it of."""
        if isinstance(self._run, World):
            return self._run.meter.outcome(stopped=False).percentile(figure, percent)
        values = self._run.ttft_s if figure == "ttft" else self._run.gaps_s
        return float(np.percentile(values, percent)) if len(values) else float("nan")
