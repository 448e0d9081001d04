"""Fleets that could serve a rate in simulation, each made from what the one before was seen to lack.

Owns what follows from a miss. Doesn't judge.

A flow counts tokens/s and no memory: pipelines that are just fast enough may hold the KV cache of ten requests where
two hundred are in flight. By Little's law as many are in flight as arrive in the time that one stays, so the time that
requests were seen to stay says how much cache the next pipelines must have (``PipelineChoice``). Where the cache would
do and requests still wait, the next pipelines have more flow than the rate takes; where tokens come too slowly, fewer
hops. A few rounds settle it.

How long requests stay depends on the kind of nodes. So each GPU type is settled alone, and all together from where the
cheapest of these settled: else the slowest type, cheap by flow, would decide for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from helix_df.graph.problem import Placement
from helix_df.sizing.judging import FleetJudge, Verdict
from helix_df.sizing.market import Fleet
from helix_df.sizing.pipelines import Most, PipelineChoice
from helix_df.sizing.prediction import FleetPrediction

ROUNDS = 24
"""Fleets that are made at most."""

MORE_FLOW = 1.1
"""Times the flow of the round before."""

SETTLED = 1.02
"""Times that requests may stay longer than was thought before the cache is made larger."""

LESS_LOAD = 1.25
"""Times the flow of the round before where tokens come too slowly."""

FEWER_HOPS = 0.8
"""Share of the hops of the round before."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What pipelines have: cache for requests that stay so long (s), times the flow of the rate, hops at most."""

    residence_s: float = 0.0
    factor: float = 1.0
    hops: int | None = None


def settle(judge: FleetJudge, stop: Callable[[], bool]) -> Iterator[Verdict]:
    """Verdicts of a simulating judge on one fleet after another: of each GPU type until one serves, then of all."""
    offers = judge.market.offers
    best = _Wanted()
    dearest: int | None = None
    types = list(dict.fromkeys(offer.node.gpu for offer in offers))
    for gpu in (*types, None) if len(types) > 1 else (None,):
        most = tuple(offer.most if gpu in (offer.node.gpu, None) else 0 for offer in offers)
        start = best if gpu is None else _Wanted()
        for verdict, wanted in _rounds(judge, stop, most, start, dearest):
            yield verdict
            cost = judge.market.cost_units(verdict.fleet)
            if verdict.answer == "serves" and (dearest is None or cost < dearest):
                best, dearest = wanted, cost


def _rounds(
    judge: FleetJudge, stop: Callable[[], bool], most: Most, wanted: _Wanted, dearest: int | None
) -> Iterator[tuple[Verdict, _Wanted]]:
    """Fleets of some offers until one serves, and one that is a little smaller, each with what was wanted of it.

    ``dearest``: millionths an hour that a fleet must cost less than.
    """
    options: tuple[_Wanted, ...] = (wanted,)
    for _ in range(ROUNDS):
        made = None if stop() else _cheapest(judge, most, options, dearest)
        if made is None:
            return
        verdict, wanted = judge.of_placement(*made[0]), made[1]
        yield verdict, wanted
        if verdict.answer == "serves" or verdict.prediction is None:
            break
        options = _after_a_miss(judge, wanted, verdict.prediction)
    if wanted.factor > 1.0 and not stop():
        made = _cheapest(judge, most, (replace(wanted, factor=wanted.factor / MORE_FLOW**0.5),), dearest)
        if made is not None:
            yield judge.of_placement(*made[0]), made[1]


def _after_a_miss(judge: FleetJudge, wanted: _Wanted, found: FleetPrediction) -> tuple[_Wanted, ...]:
    """What may be wanted next; the cheapest of it is tried."""
    limit_s = judge.job.limits.itl_p95
    if limit_s is not None and found.begins and not found.itl_p95_s <= limit_s:
        # Over fewer hops requests stay shorter; if not, the next round says so. Less load shortens batches, too.
        hops, residence_s = max(1, int(FEWER_HOPS * found.hops)), FEWER_HOPS * found.residence_s
        shorter = replace(wanted, hops=hops, residence_s=min(residence_s, wanted.residence_s))
        return shorter, replace(wanted, factor=LESS_LOAD * wanted.factor)
    if found.residence_s > SETTLED * wanted.residence_s:
        return (replace(wanted, residence_s=found.residence_s),)
    return (replace(wanted, factor=MORE_FLOW * wanted.factor),)


def _cheapest(
    judge: FleetJudge, most: Most, options: Sequence[_Wanted], dearest: int | None
) -> tuple[tuple[Fleet, Placement], _Wanted] | None:
    """The cheapest pipelines that have what is wanted, of any option; ``None`` where there are none cheap enough."""
    found = []
    for place, wanted in enumerate(options):
        choice = PipelineChoice(judge.market, wanted.residence_s, wanted.hops)
        packed = choice.cheapest(judge.flow * wanted.factor, most, few_hops=True)
        if packed is not None and (dearest is None or judge.market.cost_units(packed[0]) < dearest):
            found.append((judge.market.cost_units(packed[0]), place, packed))
    if not found:
        return None
    _, place, packed = min(found, key=lambda one: one[:2])
    return packed, options[place]
