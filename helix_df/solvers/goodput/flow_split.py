"""From a placement to how requests go through it: its maximum flow as shares.

Owns the translation, by the numbers of a ``Judge``. Doesn't weigh.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from helix_df.graph.capacities import Floats, Ints
from helix_df.graph.judge import Judge

LEAST_SHARE = 1e-9
"""Shares below are the rounding of capacities."""


@dataclass(frozen=True, slots=True)
class FlowSplit:
    """How requests go through a placement.

    Attributes:
        flow: tokens/s of the placement's maximum flow, which the shares are of.
        nodes: positions of nodes that requests pass.
        share: of requests, by such a node.
        start: first layer held, by such a node.
        layers_run: mean layers that a request runs there; fewer than held where it skips some.
        layers_held: by such a node.
        tail, head: ends of links as positions of nodes, the coordinator one past the last; links stand in the order in
            which their tails end, so that all links into a node come before those out of it.
        link_share: of requests, by link.
    """

    flow: float
    nodes: Ints
    share: Floats
    start: Ints
    layers_run: Floats
    layers_held: Ints
    tail: Ints
    head: Ints
    link_share: Floats

    def ends(self) -> tuple[Ints, Ints]:
        """Tail and head of links as positions in ``nodes``, the coordinator one past the last."""
        place = np.full(int(max(self.tail.max(), self.head.max())) + 1, len(self.nodes))
        place[self.nodes] = np.arange(len(self.nodes))
        return place[self.tail], place[self.head]


def split_flow(judge: Judge, start: Ints, count: Ints) -> FlowSplit | None:
    """How a maximum flow splits; ``None`` when nothing flows."""
    links = judge.link_flows(start, count)
    if links is None:
        return None
    tail, head, tokens_per_s = links
    end = len(count)
    flow = float(tokens_per_s[head == end].sum())
    share = tokens_per_s / flow
    kept = share > LEAST_SHARE
    tail, head, share = tail[kept], head[kept], share[kept]
    # A request runs from where the node before stopped to the end of this one's layers.
    stop = np.append(start + count, 0)
    through, layers = np.zeros(end + 1), np.zeros(end + 1)
    np.add.at(through, head, share)
    # The coordinator, where requests begin, stops at 0; a link always leads to a node that stops later.
    order = np.argsort(stop[tail], kind="stable")
    tail, head, share = tail[order], head[order], share[order]
    inner = head != end
    np.add.at(layers, head[inner], share[inner] * (stop[head[inner]] - stop[tail[inner]]))
    nodes = np.flatnonzero(through[:end] > LEAST_SHARE)
    return FlowSplit(
        flow, nodes, through[nodes], start[nodes], layers[nodes] / through[nodes], count[nodes], tail, head, share
    )
