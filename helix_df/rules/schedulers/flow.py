"""``flow``: the runtime's own router, weighted turns over the plan's flow."""

from __future__ import annotations

from helix_df.rules.routing import FlowRouter
from helix_df.rules.schedulers.api import View


def flow(view: View) -> FlowRouter:
    """The very router that the runtime's coordinator uses."""
    return FlowRouter(view.placement, view.edges)
