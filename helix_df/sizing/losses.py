"""What is left of a fleet when nodes go, as spot nodes do: with every layer where it is, and planned anew.

Owns which nodes go: any so many of one offer, the worst of them. Doesn't choose fleets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from helix_df.graph.judge import Judge
from helix_df.graph.problem import Placement
from helix_df.sizing.judging import FleetJudge
from helix_df.sizing.market import Market

ALL_CHOICES = 1500
"""Choices of nodes up to which all are looked at; beyond, nodes go one after the other, each the worst."""


@dataclass(frozen=True, slots=True)
class Loss:
    """So many nodes of an offer are gone.

    Attributes:
        offer: its name.
        lost: nodes that are gone, of ``owned``.
        kept_flow: tokens/s of the placement as it stands, when the worst so many go.
        exact: whether every choice of nodes was looked at; else a worse one may exist.
        replanned_flow: tokens/s of the rest planned anew; no less than ``kept_flow``.
    """

    offer: str
    lost: int
    owned: int
    kept_flow: float
    exact: bool
    replanned_flow: float


def losses(
    market: Market, judge: FleetJudge, fleet: tuple[int, ...], placement: Placement, most: int
) -> Iterator[Loss]:
    """What is left without 1, 2, … ``most`` nodes of each offer that a fleet has."""
    flows = Judge(market.problem(fleet))
    for place, names in market.nodes_of(fleet):
        gone: tuple[str, ...] = ()
        for lost in range(1, min(most, len(names)) + 1):
            exact = math.comb(len(names), lost) <= ALL_CHOICES
            every, another = combinations(names, lost), ((*gone, name) for name in names if name not in gone)
            choices = every if exact else another
            kept, gone = min((_flow_without(flows, placement, choice), choice) for choice in choices)
            rest = tuple(count - lost * (other == place) for other, count in enumerate(fleet))
            replanned = max(kept, judge.most_flow(rest))
            yield Loss(market.offers[place].name, lost, len(names), kept, exact, replanned)


def _flow_without(flows: Judge, placement: Placement, gone: Sequence[str]) -> float:
    rest = {name: layers for name, layers in placement.items() if name not in gone}
    return flows.flow(*flows.arrays(rest))
