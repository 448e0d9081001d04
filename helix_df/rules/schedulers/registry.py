"""The schedulers by name, each imported when it is asked for. A new one is one file and one row here.

The job language, the commands' helps and the properties take their lists from these rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from helix_df.errors import SimulationError

if TYPE_CHECKING:  # the job language imports this module, and needs no router
    from helix_df.rules.schedulers.api import Scheduler


@dataclass(frozen=True, slots=True)
class SchedulerRow:
    """What is known of a scheduler without importing it.

    ``place`` is its module and attribute. ``meaning`` follows its name in the reference of the job language; without
    one it runs in simulations alone. ``follows_flow``: it only uses hops to which the plan gives flow; the others use
    every feasible one.
    """

    place: str
    meaning: str = ""
    follows_flow: bool = False
    mends: bool = False


SCHEDULERS = {
    "flow": SchedulerRow(
        "helix_df.rules.schedulers.flow:flow",
        "follows the plan's flow by weighted round-robin",
        follows_flow=True,
        mends=True,
    ),
    "flow-tokens": SchedulerRow("helix_df.rules.schedulers.flow_tokens:FlowByTokens", follows_flow=True),
    "random": SchedulerRow("helix_df.rules.schedulers.at_random:AtRandom", "takes any possible route"),
    "shortest-queue": SchedulerRow(
        "helix_df.rules.schedulers.shortest_queue:ShortestQueue",
        "takes, at every hop, the node with the fewest requests in flight",
    ),
    "swarm": SchedulerRow("helix_df.rules.schedulers.swarm:Swarm"),
}

SERVING = {name: row.meaning for name, row in SCHEDULERS.items() if row.meaning}
"""What those do that a job may ask for, by name."""


def follows_flow(name: str) -> bool:
    """Whether a scheduler uses only hops to which the plan gives flow."""
    return SCHEDULERS[name].follows_flow


def mends_flow(name: str) -> bool:
    """Whether a scheduler goes by another flow while nodes are down (``rules.mended_flow``)."""
    return SCHEDULERS[name].mends


def get_scheduler(name: str) -> Scheduler:
    """The scheduler of that name.

    Raises:
        SimulationError: if there is none.
    """
    row = SCHEDULERS.get(name)
    if row is None:
        raise SimulationError(
            "there is no such scheduler", where="scheduler", found=repr(name), expected=", ".join(SCHEDULERS)
        )
    module, _, attribute = row.place.partition(":")
    scheduler: Scheduler = getattr(import_module(module), attribute)
    return scheduler
