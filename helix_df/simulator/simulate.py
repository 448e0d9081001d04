"""The one call of the simulator: a setup, a trace and options in, an outcome out. Pure and repeatable."""

from __future__ import annotations

from helix_df.simulator.options import Options
from helix_df.simulator.outcome import Outcome
from helix_df.simulator.report import Report
from helix_df.simulator.setup import Setup
from helix_df.simulator.simulation import Course, Form, Simulation, SimulationWatch
from helix_df.simulator.trace import Trace


def simulate(
    setup: Setup,
    trace: Trace,
    options: Options | None = None,
    watch: SimulationWatch | None = None,
    *,
    form: Form = "auto",
) -> Outcome:
    """Run a trace on a placed model.

    Args:
        setup: what serves; ``setup_of(plan)``.
        trace: what comes.
        options: by which rules; ``options_of(plan.served)`` are the runtime's.
        watch: hears how far the run is and may end it; the outcome then tells what is done so far.
        form: how the loop runs, ``plain`` or ``compiled``; by default what takes less time. The outcome is the same.

    Raises:
        SimulationError: for options that make no sense here, such as an event of a node that isn't there.
    """
    report = Report()
    simulation = Simulation(setup, Course(trace, options or Options()), form=form, reader=report)
    stopped = simulation.run(watch)
    return report.outcome(simulation, stopped)
