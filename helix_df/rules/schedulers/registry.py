"""The schedulers by name, each imported when it is asked for. A new one is one file and one line here."""

from __future__ import annotations

from importlib import import_module

from helix_df.errors import SimulationError
from helix_df.rules.schedulers.api import Scheduler

SCHEDULERS = {
    "flow": "helix_df.rules.schedulers.flow:flow",
    "flow-tokens": "helix_df.rules.schedulers.flow_tokens:FlowByTokens",
    "random": "helix_df.rules.schedulers.at_random:AtRandom",
    "shortest-queue": "helix_df.rules.schedulers.shortest_queue:ShortestQueue",
    "swarm": "helix_df.rules.schedulers.swarm:Swarm",
}


FOLLOW_FLOW = frozenset({"flow", "flow-tokens"})
"""Those that only use hops to which the plan gives flow; the others use every feasible one."""


def follows_flow(name: str) -> bool:
    """Whether a scheduler uses only hops to which the plan gives flow."""
    return name in FOLLOW_FLOW


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
