"""Which ways requests take when KV caches are nearly full, and how many are in flight then.

A node without room is passed by, so shares that begin as those of the maximum flow shift to nodes with room, until some
layer has none left on any node. Owns that. Doesn't know seconds.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from helix_df.graph.capacities import Floats
from helix_df.solvers.goodput.flow_split import FlowSplit
from helix_df.solvers.goodput.network_kernel import SLACK, most_by_layer, shift
from helix_df.solvers.goodput.stage_costs import StageCosts


def kv_limited_split(costs: StageCosts, split: FlowSplit) -> tuple[FlowSplit, float]:
    """The shares of a full cluster, where ``split`` is that of an empty one, and how many requests are in flight."""
    room = costs.kv_tokens[split.nodes, split.layers_held] * costs.admitted / costs.request_tokens
    # Requests that run a part of a node's layers take as much less of its cache, where caches are counted by layer.
    part = split.layers_run / split.layers_held if costs.kv_by_layer else np.ones(len(room))
    most = float(most_by_layer(split.start, split.layers_held, room, split.share * part, costs.problem.num_layers))
    room = room / part * costs.fullest
    if (most * split.share <= SLACK * room).all():
        return split, most
    shifted = shift_shares(split, room / most, costs.looks_ahead)
    return shifted, min(most, float((room / shifted.share).min()))


def shift_shares(split: FlowSplit, room: Floats, looks_ahead: bool) -> FlowSplit:
    """The split with shares moved to nodes where they fit; ``room`` is the share that fits, by node."""
    share, link_share = shift(split.share, split.link_share, *split.ends(), room, looks_ahead)
    return replace(split, share=share, link_share=link_share)
