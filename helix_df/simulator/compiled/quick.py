"""The compiled simulation, step by step: what ``simulate`` does under the rules that ``can_compile`` names.

Owns how it is driven and what is known of it. Doesn't keep what the search for placements has no use for.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from helix_df.simulator.compiled import loop
from helix_df.simulator.compiled.plant import Records, Rules, plant_of, rules_of, wanted_of
from helix_df.simulator.compiled.state import DECODED, FULL, GAP, PROMPTED, REJECTED, REQUEST, STEPS_A_HOME, new_state
from helix_df.simulator.network import Network
from helix_df.simulator.options import Options
from helix_df.simulator.setup import Setup
from helix_df.simulator.trace import Trace


class Overflow(Exception):
    """A simulation outgrew its arrays."""


class QuickRun:
    """One compiled simulation on its way."""

    def __init__(self, setup: Setup, trace: Trace, options: Options, wanted: Records | None = None) -> None:
        network = Network(setup, options)
        self.rules: Rules = rules_of(trace, options, network, setup.activation_bytes)
        self.plant = plant_of(wanted_of(trace, options) if wanted is None else wanted, options, network)
        self.state = new_state(self.plant)
        self._gaps: list[npt.NDArray[np.float32]] = []
        loop.open_up(self.plant, self.state, self.rules)

    def advance(self, until_s: float) -> bool:
        """Run until a simulated second; whether there is more to come.

        Raises:
            Overflow: when there is no room for what happens.
        """
        counts = self.state.counts
        while more := bool(loop.advance(self.plant, self.state, self.rules, until_s)):
            if not counts[GAP]:
                break
            full = counts[GAP] > STEPS_A_HOME
            self._keep_gaps()
            if not full:
                break
        self._keep_gaps()
        if counts[FULL]:
            raise Overflow
        return more

    def run(self, stop: Callable[[], bool], look_s: float = 15.0) -> bool:
        """Run to the end, unless asked to stop; whether the end was reached."""
        until_s = look_s
        while self.advance(until_s):
            if stop():
                return False
            until_s += look_s
        return True

    def _keep_gaps(self) -> None:
        found = self.state.counts[GAP]
        self._gaps.append(self.state.gaps[:found].astype(np.float32))
        self.state.counts[GAP] = 0

    @property
    def decode_tokens(self) -> int:
        """Generated tokens that came home in the window so far."""
        return int(self.state.counts[DECODED])

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompts whose prefill ended in the window so far."""
        return int(self.state.counts[PROMPTED])

    @property
    def rejected(self) -> int:
        """Requests turned away or given up."""
        return int(self.state.counts[REJECTED])

    @property
    def arrived(self) -> int:
        """Requests that came."""
        return int(self.state.counts[REQUEST])

    @property
    def gaps_s(self) -> npt.NDArray[np.float32]:
        """Times between two tokens of a request in the window."""
        return np.concatenate([*self._gaps, np.zeros(0, np.float32)])

    @property
    def ttft_s(self) -> npt.NDArray[np.float64]:
        """Times to first token of requests whose first token came in the window."""
        count = int(self.state.counts[REQUEST])
        requests = self.state.requests[:count]
        first, arrived = requests["first_token_s"], requests["arrived_s"]
        inside = (first >= self.rules.warmup_s) & (first <= self.rules.end_s)
        times: npt.NDArray[np.float64] = first[inside] - arrived[inside]
        return times
