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

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from helix_df.sizing.judging import Judge, Verdict
from helix_df.sizing.pipelines import Most, PipelineChoice
from helix_df.sizing.prediction import FleetPrediction

ROUNDS = 12
"""Fleets that are made at most."""

MORE_FLOW = 1.1
"""Times the flow of the round before."""

SETTLED = 1.02
"""Times that requests may stay longer than was thought before the cache is made larger."""

FEWER_HOPS = 0.8
"""Share of the hops of the round before."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What pipelines have: cache for requests that stay so long (s), times the flow of the rate, hops at most."""

    residence_s: float = 0.0
    factor: float = 1.0
    hops: int | None = None


def settle(judge: Judge, stop: Callable[[], bool]) -> Iterator[Verdict]:
    """Verdicts of a simulating judge on one fleet after another: of each GPU type until one serves, then of all."""
    offers = judge.market.offers
    settled: list[tuple[int, _Wanted]] = []
    types = list(dict.fromkeys(offer.node.gpu for offer in offers))
    for gpu in types if len(types) > 1 else ():
        wanted = _Wanted()
        most = tuple(offer.most if offer.node.gpu == gpu else 0 for offer in offers)
        for verdict, wanted in _rounds(judge, stop, most, _Wanted()):
            yield verdict
            if verdict.answer == "serves":
                settled.append((judge.market.cost_units(verdict.fleet), wanted))
    start = min(settled, key=lambda one: one[0], default=(0, _Wanted()))[1]
    yield from (verdict for verdict, _ in _rounds(judge, stop, tuple(offer.most for offer in offers), start))


def _rounds(judge: Judge, stop: Callable[[], bool], most: Most, wanted: _Wanted) -> Iterator[tuple[Verdict, _Wanted]]:
    """Fleets of some offers until one serves, and one that is a little smaller, each with what was wanted of it."""
    for _ in range(ROUNDS):
        verdict = None if stop() else _made(judge, most, wanted)
        if verdict is None or verdict.prediction is None:
            return
        yield verdict, wanted
        if verdict.answer == "serves":
            break
        wanted = _next(judge, wanted, verdict.prediction)
    if wanted.factor > 1.0 and not stop():
        wanted = replace(wanted, factor=wanted.factor / MORE_FLOW**0.5)
        smaller = _made(judge, most, wanted)
        if smaller is not None:
            yield smaller, wanted


def _next(judge: Judge, wanted: _Wanted, found: FleetPrediction) -> _Wanted:
    """What is wanted after a miss."""
    limit_s = judge.job.limits.itl_p95
    if limit_s is not None and found.begins and not found.itl_p95_s <= limit_s:
        return replace(wanted, hops=max(1, int(FEWER_HOPS * found.hops)))
    if found.residence_s > SETTLED * wanted.residence_s:
        return replace(wanted, residence_s=found.residence_s)
    return replace(wanted, factor=MORE_FLOW * wanted.factor)


def _made(judge: Judge, most: Most, wanted: _Wanted) -> Verdict | None:
    """The verdict on the fleet of the cheapest pipelines that have what is wanted; ``None`` where there are none."""
    choice = PipelineChoice(judge.market, wanted.residence_s, wanted.hops)
    packed = choice.cheapest(judge.flow * wanted.factor, most, few_hops=True)
    return None if packed is None else judge.of_placement(*packed)
