"""The one call of the simulator: a setup, a trace and options in, an outcome out. Pure and repeatable."""

from __future__ import annotations

from helix_df.simulator.options import Options
from helix_df.simulator.outcome import Outcome
from helix_df.simulator.setup import Setup
from helix_df.simulator.trace import Trace
from helix_df.simulator.world import Watch, World


def simulate(setup: Setup, trace: Trace, options: Options | None = None, watch: Watch | None = None) -> Outcome:
    """Run a trace on a placed model.

    Args:
        setup: what serves; ``setup_of(plan)``.
        trace: what comes.
        options: by which rules; ``options_of(plan.job)`` are the runtime's.
        watch: hears how far the run is and may end it; the outcome then tells what is done so far.

    Raises:
        SimulationError: for options that make no sense here, such as an event of a node that isn't there.
    """
    world = World(setup, trace, options or Options())
    stopped = world.run(watch)
    return world.meter.outcome(stopped)
