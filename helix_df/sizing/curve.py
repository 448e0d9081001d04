"""Cost against goodput: the cheapest fleets for lower and higher rates, and what no fleet costs less than.

Owns which rates are sized. Doesn't draw.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from helix_df.sizing.answer import CheapestOf, JudgedBy, Sizing, cheapest_of
from helix_df.sizing.market import UNITS, Market, restricted
from helix_df.sizing.search import Effort, lower_bound_units
from helix_df.solvers.api import Watch
from helix_df.spec.job import Job

TIMES: dict[JudgedBy, tuple[float, ...]] = {
    "flow": (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0),
    "simulation": (0.5, 1.0, 2.0),
}
"""Multiples of the job's rate that are sized; simulations take their time."""

BOUND_POINTS = 24
"""Rates for which the lower bound is computed."""


@dataclass(frozen=True, slots=True)
class CostPoint:
    """A fleet, what it costs an hour, and its goodput: generated tokens/s that it serves within the limits."""

    goodput: float
    cost: float
    fleet: str


@dataclass(frozen=True, slots=True)
class CostCurve:
    """The cheapest fleets by goodput: of all offers, and of each GPU type alone by its offers' names.

    ``bound``: (goodput, cost an hour) that no fleet of all offers is cheaper than.
    """

    title: str
    chosen: CostPoint
    all_offers: tuple[CostPoint, ...]
    alone: dict[str, tuple[CostPoint, ...]]
    bound: tuple[tuple[float, float], ...]


def cost_curve(job: Job, sizing: Sizing, effort: Effort | None = None, watch: Watch | None = None) -> CostCurve:
    """Size a job for rates around the one that it was sized for."""
    watch, effort = watch or Watch(), effort or Effort()
    market, output = Market(job), job.workload.output_length
    groups = {"": list(job.offers), **{" + ".join(one.offers): list(one.offers) for one in sizing.alternatives}}
    known = {"": sizing.cheapest, **{" + ".join(one.offers): one for one in sizing.alternatives}}
    points: dict[str, list[CostPoint]] = {name: [] for name in groups}
    for times in TIMES[sizing.judged_by]:
        for name, offers in groups.items():
            found = known[name]
            if times != 1.0:
                if watch.stop.is_set():
                    continue
                found = cheapest_of(restricted(job, offers), times * sizing.rate, sizing.judged_by, effort, watch)
            points[name] += _points(found, times * sizing.rate * output)
    rates = np.linspace(TIMES[sizing.judged_by][0], TIMES[sizing.judged_by][-1], BOUND_POINTS) * sizing.rate
    chosen = _points(sizing.cheapest, sizing.rate * output)[0]
    everything = points.pop("")
    return CostCurve(
        f"{sizing.job.name}: cost of the cheapest fleet by goodput, judged by {sizing.judged_by}",
        chosen,
        _no_dearer_than_parts(everything, points),
        {name: tuple(found) for name, found in points.items()},
        tuple(_bound(market, [float(rate) for rate in rates], output)),
    )


def _points(found: CheapestOf, goodput: float) -> list[CostPoint]:
    return [] if found.fleet is None else [CostPoint(goodput, found.fleet.cost, str(found.fleet))]


def _no_dearer_than_parts(everything: list[CostPoint], alone: dict[str, list[CostPoint]]) -> tuple[CostPoint, ...]:
    """A type alone is a choice of all offers, too, should a search for these have been cut off."""
    cheaper = [point for points in alone.values() for point in points]
    return tuple(
        min([one, *(other for other in cheaper if other.goodput == one.goodput)], key=lambda point: point.cost)
        for one in everything
    )


def _bound(market: Market, rates: list[float], output: float) -> Iterator[tuple[float, float]]:
    for rate in rates:
        units = lower_bound_units(market, market.flow_of(rate))
        if units is None:
            return
        yield rate * output, units / UNITS
