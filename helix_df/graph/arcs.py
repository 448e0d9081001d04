"""The arcs of a placement's flow graph, as positions and integers, built in one way for all who solve for a flow.

Owns which nodes requests may go between, how a limit on hops thins that out, the numbering of vertices and the units of
capacity. Source: Helix (arXiv 2406.01566), section 4.1. ``flow_graph`` gives the arcs names, ``judge`` values thousands
of placements by them, ``max_flow`` and ``even_flow`` solve them. Doesn't know problems, links or solvers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from helix_df.graph.capacities import Floats, Ints
from helix_df.graph.flow import RESOLUTION
from helix_df.graph.limits import Bools, within_hops
from helix_df.layers import LayerRange

SOURCE, SINK = 0, 1
"""Vertices of the coordinator. A placed node has two, ``entry`` and ``exit_of``, joined by its own arc."""

MOST_UNITS = 2**52
"""Capacities are cut off here: far above any node's, and small enough that sums fit in 63 bits."""

Positions = TypeVar("Positions", int, Ints)


def entry(node: Positions) -> Positions:
    """The vertex by which requests come to a placed node."""
    return 2 + 2 * node


def exit_of(node: Positions) -> Positions:
    """The vertex by which requests leave a placed node."""
    return 3 + 2 * node


def to_units(tokens_per_s: Floats) -> Ints:
    """Capacities in units of ``RESOLUTION``, never rounded up."""
    return np.minimum(tokens_per_s / RESOLUTION, MOST_UNITS).astype(np.int64)


def connects(upstream: LayerRange, downstream: LayerRange, partial: bool) -> bool:
    """Whether a request that has been through ``upstream`` can go on in ``downstream``."""
    return bool(_joins(np.int64(upstream.stop), np.int64(downstream.start), np.int64(downstream.stop), partial))


def joinable(start: Ints, stop: Ints, partial: bool) -> Bools:
    """``[i, j]``: whether a request that has been through node ``i``'s layers can go on in node ``j``'s."""
    return _joins(stop[:, None], start[None, :], stop[None, :], partial)


def _joins(reached: Ints | np.int64, start: Ints | np.int64, stop: Ints | np.int64, partial: bool) -> Bools:
    # With partial inference a request runs the layers from where it is, so a node may begin earlier.
    found: Bools = (start <= reached) & (reached < stop) if partial else np.equal(reached, start)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Connections:
    """Positions of the nodes that requests enter at (``first``) and leave from (``last``), and of both ends of hops."""

    first: Ints
    tail: Ints
    head: Ints
    last: Ints


def connect(
    start: Ints, stop: Ints, num_layers: int, joins: Bools, enters: Bools, leaves: Bools, max_hops: int | None
) -> Connections:
    """The hops of placed nodes.

    Args:
        start, stop: the layers that each node holds.
        num_layers: of the model.
        joins: ``joinable``, where there is a link.
        enters, leaves: whether there is a link to a node from the coordinator, and back.
        max_hops: nodes that a request passes at most (``within_hops``), or ``None``.
    """
    first, last = enters & (start == 0), leaves & (stop == num_layers)
    if max_hops is not None:
        joins, last = within_hops(joins, first, last, stop, max_hops)
    tail, head = np.nonzero(joins)
    return Connections(np.flatnonzero(first), tail, head, np.flatnonzero(last))


def clamped(units: Ints, nodes: int) -> Ints:
    """Capacities of arcs, those of the ``nodes`` nodes first, without more than could ever flow.

    No flow exceeds what all nodes carry together, so clamping links to one more changes no cut.
    """
    return np.minimum(units, int(units[:nodes].sum()) + 1)
