"""Which ways requests take when KV caches are nearly full, and how many are in flight then.

A node without room is passed by, so shares that begin as those of the maximum flow shift to nodes with room, until some
layer has none left on any node. Owns that. Doesn't know seconds.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from helix_df.goodput.routes import Routed
from helix_df.goodput.shop import Shop
from helix_df.graph.capacities import Floats

ROUNDS = 8
"""Times that shares are moved away from nodes that have more than fits."""

SLACK = 1.02
"""What counts as more than fits: shares needn't be moved to the last request."""


def crowd(shop: Shop, routed: Routed) -> tuple[Routed, float]:
    """The shares of a full cluster, where ``routed`` are those of an empty one, and how many requests are in flight."""
    room = shop.kv_tokens[routed.nodes, routed.layers_held] * shop.admitted / shop.request_tokens
    # Requests that run a part of a node's layers take as much less of its cache, where caches are counted by layer.
    part = routed.layers_run / routed.layers_held if shop.kv_by_layer else np.ones(len(room))
    most = _most_by_layer(shop, routed, room, part)
    room = room / part * shop.fullest
    if (most * routed.share <= SLACK * room).all():
        return routed, most
    shifted = Ways(routed).shift(room / most, shop.looks_ahead)
    return shifted, min(most, float((room / shifted.share).min()))


def _most_by_layer(shop: Shop, routed: Routed, room: Floats, part: Floats) -> float:
    """Requests that fit into the caches of all nodes which hold a layer, at the tightest layer."""
    fit, taken = np.zeros(shop.problem.num_layers + 1), np.zeros(shop.problem.num_layers + 1)
    for sums, amounts in ((fit, room), (taken, routed.share * part)):
        np.add.at(sums, routed.start, amounts)
        np.add.at(sums, routed.start + routed.layers_held, -amounts)
    return float((np.cumsum(fit)[:-1] / np.maximum(np.cumsum(taken)[:-1], 1e-9)).min())


class Ways:
    """The links of a flow, as shares of what leaves their tails."""

    def __init__(self, routed: Routed) -> None:
        self.routed = routed
        place = np.full(int(max(routed.tail.max(), routed.head.max())) + 1, len(routed.nodes))
        place[routed.nodes] = np.arange(len(routed.nodes))
        # One past the last is the coordinator: requests begin and end there.
        self.tail, self.head = place[routed.tail], place[routed.head]
        self.count = len(routed.nodes)

    def shift(self, most: Floats, looks_ahead: bool) -> Routed:
        """Move shares away from nodes with more than ``most``; looking ahead, also from those that only lead there."""
        weight = self.routed.link_share.copy()
        inner = self.head < self.count
        share, link_share = self.routed.share, weight
        for _ in range(ROUNDS):
            over = np.append(share / most, 0.0)
            if looks_ahead:
                ahead = np.full(self.count + 1, np.inf)
                np.minimum.at(ahead, self.tail, over[self.head])
                over = np.maximum(over, np.where(np.isfinite(ahead), ahead, 0.0))
            weight = np.where(inner, weight / np.maximum(over[self.head], 1.0), weight)
            share, link_share = self._spread(weight)
            if (share <= SLACK * most).all():
                break
        return replace(self.routed, share=share, link_share=link_share)

    def _spread(self, weight: Floats) -> tuple[Floats, Floats]:
        """Shares of requests by node and by link when every tail splits by these weights."""
        total = np.zeros(self.count + 1)
        np.add.at(total, self.tail, weight)
        part = weight / total[self.tail]
        matrix = np.eye(self.count)
        enters = np.zeros(self.count)
        first, inner = self.tail == self.count, (self.tail < self.count) & (self.head < self.count)
        enters[self.head[first]] = part[first]
        np.add.at(matrix, (self.head[inner], self.tail[inner]), -part[inner])
        share: Floats = np.linalg.solve(matrix, enters).astype(np.float64)
        link_share: Floats = part * np.append(share, 1.0)[self.tail]
        return share, link_share
