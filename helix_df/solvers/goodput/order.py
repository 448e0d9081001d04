"""Who goes first, chosen when all else of a plan is: the shortest prompt, where first tokens then come sooner.

Where requests never run out one waits at all times and hardly ever two, so the search can't see the order. It is judged
on arrivals that nearly fill the plan, of requests that the search hasn't seen: only there somebody waits who could be
passed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from helix_df.plan.serving import ServingRules
from helix_df.simulator.simulation import Simulation
from helix_df.solvers.goodput.config import HELD_OUT, VALIDATION_ONLINE_S
from helix_df.solvers.goodput.evaluator import SECOND, Evaluator
from helix_df.solvers.goodput.placements import Scored, excess
from helix_df.solvers.goodput.racing import APART_S
from helix_df.solvers.goodput.worker_pool import WorkerPool

RULE = "shortest_first"

NEARLY_FULL = 0.95
"""Arrivals, as a share of the requests that the plan serves when they never run out."""

SOONER, SAME_TOKENS = 0.02, 0.005
"""Share by which the p95 of the time to first token has to fall, and share of the tokens that may be missing then."""


@dataclass(frozen=True, slots=True)
class ArrivalFigures:
    """What came of arrivals: generated tokens in the window, and times in seconds, NaN where no token came."""

    tokens: float
    ttft_mean_s: float
    ttft_p95_s: float
    itl_p95_s: float


def pays(arrival: ArrivalFigures, shortest: ArrivalFigures) -> bool:
    """Whether the shortest prompt goes first: first tokens come sooner, and nothing else is worse but for chance."""
    return (
        shortest.ttft_p95_s <= (1 - SOONER) * arrival.ttft_p95_s
        and shortest.ttft_mean_s <= arrival.ttft_mean_s
        and shortest.itl_p95_s <= (1 + SOONER) * arrival.itl_p95_s
        and shortest.tokens >= (1 - SAME_TOKENS) * arrival.tokens
    )


def choose_order(evaluator: Evaluator, pool: WorkerPool, chosen: Scored, seed: int, stop: Callable[[], bool]) -> Scored:
    """The plan that was found with the order that is better for it; as it is where the job says the order.

    Args:
        evaluator: of the job.
        pool: simulates on all cores.
        chosen: what was found, which keeps the limits on latency.
        seed: of requests that the search hasn't seen.
        stop: whether to leave it as it is.
    """
    if RULE not in evaluator.config.free_rules or chosen.rules is None or chosen.score <= 0:
        return chosen
    shortest = replace(chosen, rules=replace(chosen.rules, shortest_first=True))
    arrival = replace(chosen, rules=replace(chosen.rules, shortest_first=False))
    draws = (seed, seed + SECOND)
    tasks = [(one, draw) for one in (arrival, shortest) for draw in draws]
    found = pool.perform(lambda task: _on_arrivals(evaluator, *task, stop), tasks, stop)
    figures = [one for one in found if one is not None]
    if stop() or len(figures) < len(tasks):
        return chosen
    if not pays(_mean(figures[: len(draws)]), _mean(figures[len(draws) :])):
        return arrival
    judged = _judged(evaluator, shortest, seed, stop)
    return judged if excess(judged, evaluator.config.job.limits) <= 0 and not stop() else arrival


def _judged(evaluator: Evaluator, one: Scored, seed: int, stop: Callable[[], bool]) -> Scored:
    """The same with its latencies at the job's own rate, where these are limited."""
    if not evaluator.config.judges_latency:
        return one
    found = evaluator.under(_rules(one)).latencies(one.ranges, seed, one.spread, stop)
    return replace(one, ttft_p95_s=found.ttft_p95_s, itl_p95_s=found.itl_p95_s)


def _on_arrivals(evaluator: Evaluator, one: Scored, draw: int, stop: Callable[[], bool]) -> ArrivalFigures:
    config, rules = evaluator.config, _rules(one)
    rate = NEARLY_FULL * one.score / config.workload.output_tokens
    own = evaluator.under(rules)
    seconds = own.window_s(one.ranges, config.own.validation_visits, VALIDATION_ONLINE_S, rate)
    run = Simulation(
        own.setup(one.ranges, one.spread), config.arriving(rate, rules, draw, HELD_OUT, seconds), form="compiled"
    )
    until_s = 0.0
    while run.advance(until_s) and not stop():
        until_s += APART_S
    ttft_s = run.ttft_s
    mean_s = float(ttft_s.mean()) if len(ttft_s) else float("nan")
    return ArrivalFigures(run.decode_tokens, mean_s, run.percentile("ttft", 95), run.percentile("itl", 95))


def _rules(one: Scored) -> ServingRules:
    assert one.rules is not None, "what was simulated has rules"
    return one.rules


def _mean(figures: Sequence[ArrivalFigures]) -> ArrivalFigures:
    rows = [(one.tokens, one.ttft_mean_s, one.ttft_p95_s, one.itl_p95_s) for one in figures]
    return ArrivalFigures(*(float(value) for value in np.mean(rows, axis=0)))
