"""The one prediction of a plan, whoever asks: ``plan``, ``simulate``, ``bench``, the page of a simulation, comparisons.

Owns which timing a plan is predicted with, and what load stands for a saturated one where nobody names another. Doesn't
know how a simulation runs.
"""

from __future__ import annotations

from dataclasses import replace

from helix_df.graph.stage_timing import TimingChoice
from helix_df.plan.plan import Plan
from helix_df.simulator.azure import azure_offline
from helix_df.simulator.options import HoldInFlight, Options, options_of
from helix_df.simulator.outcome import Outcome
from helix_df.simulator.setup import setup_of
from helix_df.simulator.simulate import simulate
from helix_df.simulator.simulation import SimulationWatch
from helix_df.simulator.trace import Trace


def predict(
    plan: Plan,
    trace: Trace | None = None,
    options: Options | None = None,
    *,
    timing: TimingChoice = "measured",
    watch: SimulationWatch | None = None,
) -> Outcome:
    """What users of a plan would get.

    Args:
        plan: to be served.
        trace: the load; by default saturated by the Azure conversation trace, seed 0.
        options: the rules; by default those that the job is served by, over 600 s after 60 s of warm-up.
        timing: as ``setup_of``; whoever wants the number that all commands give leaves it.
        watch: as ``simulate``.

    Raises:
        SimulationError: as ``simulate``.
    """
    return simulate(setup_of(plan, timing=timing), trace or azure_offline(), options or options_of(plan.served), watch)


def held_in_flight(options: Options, count: int) -> Options:
    """The same rules under a load of ``count`` requests at all times: when one ends, the next one starts."""
    return replace(options, feed=HoldInFlight(count, spacing_s=0.0, delay_s=0.0))
