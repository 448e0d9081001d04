"""The schedulers by name, each imported when it is asked for. A new one is one file and one line here."""

from __future__ import annotations

from importlib import import_module

from helix_df.errors import SimulationError
from helix_df.simulator.schedulers.api import Scheduler

SCHEDULERS = {
    "flow": "helix_df.simulator.schedulers.flow:flow",
    "flow-tokens": "helix_df.simulator.schedulers.flow_tokens:FlowByTokens",
    "random": "helix_df.simulator.schedulers.at_random:AtRandom",
    "shortest-queue": "helix_df.simulator.schedulers.shortest_queue:ShortestQueue",
    "swarm": "helix_df.simulator.schedulers.swarm:Swarm",
}


def get_scheduler(name: str) -> Scheduler:
    """The scheduler of that name.

    Raises:
        SimulationError: if there is none.
    """
    place = SCHEDULERS.get(name)
    if place is None:
        raise SimulationError(
            "there is no such scheduler", where="scheduler", found=repr(name), expected=", ".join(SCHEDULERS)
        )
    module, _, attribute = place.partition(":")
    scheduler: Scheduler = getattr(import_module(module), attribute)
    return scheduler
