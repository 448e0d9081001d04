"""The shortest prompt goes first where that pays on arrivals, and only where the job leaves it open."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_df.graph.compile import compile_problem
from helix_df.load import parse_job
from helix_df.simulator.simulation import Simulation
from helix_df.solvers.api import SolveOptions, Watch
from helix_df.solvers.baselines import baselines
from helix_df.solvers.goodput import order
from helix_df.solvers.goodput.config import HELD_OUT, VALIDATION_ONLINE_S, SearchConfig
from helix_df.solvers.goodput.evaluator import SECOND, Evaluator
from helix_df.solvers.goodput.options import GoodputOptions
from helix_df.solvers.goodput.order import NEARLY_FULL, ArrivalFigures, choose_order, pays
from helix_df.solvers.goodput.placements import Scored, ranges_of
from helix_df.solvers.goodput.worker_pool import open_pool
from helix_df.spec.job import Job
from tests.solvers.test_chosen_rules import pinned
from tests.solvers.test_goodput import QUICK, job

SEED = 1000
FAST = """\
model: {source: random:llama-3.2-1b, dtype: float16}
gpus:
  big: {profile: {tokens_per_s: [45000, 20000, 12500, 9000], kv_tokens: [90000, 60000, 40000, 20000]}}
nodes: {a: {gpu: big}, b: {gpu: big}, c: {gpu: big}, d: {gpu: big}}
links: {default: {bandwidth: 10Gbps, latency: 1ms}}
"""
"""So fast that hundreds of requests arrive in a window."""

SECONDS = st.floats(0.01, 1e3)
FIGURES = st.builds(ArrivalFigures, SECONDS, SECONDS, SECONDS, SECONDS)


def never() -> bool:
    return False


def found(given: Job, **options: object) -> tuple[Evaluator, Scored]:
    """A placement, saturated in simulation."""
    own = GoodputOptions(**cast(Any, {**QUICK, "validation_visits": 30_000_000, **options}))
    evaluator = Evaluator(SearchConfig(given, own), compile_problem(given), 0)
    _, placement = next(iter(baselines(evaluator.problem, SolveOptions(), Watch())))
    return evaluator, evaluator.validated(ranges_of(*evaluator.judge.arrays(placement)), SEED, "quick-nodes", never)


def ordered(evaluator: Evaluator, one: Scored, stop: Any = never) -> Scored:
    with open_pool() as pool:
        return choose_order(evaluator, pool, one, SEED, stop)


@pytest.fixture(scope="module")
def usual() -> tuple[Evaluator, Scored]:
    return found(parse_job(FAST).with_solver(name="goodput", options=QUICK, time_limit=600.0))


@pytest.fixture
def it_pays(monkeypatch) -> None:
    monkeypatch.setattr(order, "pays", lambda _arrival, _shortest: True)


def on_arrivals(evaluator: Evaluator, one: Scored, shortest_first: bool) -> ArrivalFigures:
    """The mean of both draws, nearly full."""
    assert one.rules is not None
    rules = replace(one.rules, shortest_first=shortest_first)
    rate = NEARLY_FULL * one.score / evaluator.config.workload.output_tokens
    figures = []
    for draw in (SEED, SEED + SECOND):
        course = evaluator.config.arriving(rate, rules, draw, HELD_OUT, VALIDATION_ONLINE_S)
        run = Simulation(evaluator.setup(one.ranges, one.spread), course, form="compiled")
        run.run()
        mean_s, p95_s = float(run.ttft_s.mean()), run.percentile("ttft", 95)
        figures.append((run.decode_tokens, mean_s, p95_s, run.percentile("itl", 95)))
    return ArrivalFigures(*(sum(values) / len(values) for values in zip(*figures, strict=True)))


def test_it_is_chosen_where_it_pays_on_arrivals(usual):
    evaluator, one = usual
    arrival, shortest = (on_arrivals(evaluator, one, shortest_first) for shortest_first in (False, True))
    assert arrival != shortest
    rules = replace(one.rules, shortest_first=pays(arrival, shortest))
    assert ordered(evaluator, one) == replace(one, rules=rules)


def test_nothing_else_of_the_plan_changes(usual, it_pays):
    evaluator, one = usual
    assert ordered(evaluator, one) == replace(one, rules=replace(one.rules, shortest_first=True))


@pytest.mark.parametrize("said", [False, True])
def test_what_the_job_says_of_it_stays(said, it_pays):
    evaluator, one = found(pinned(shortest_first=said))
    assert ordered(evaluator, one) == one
    assert one.rules is not None
    assert one.rules.shortest_first == said


def test_the_artifacts_rules_have_no_such_order(it_pays):
    evaluator, one = found(job(), rules="artifact")
    assert ordered(evaluator, one) == one


def test_who_is_stopped_leaves_it(usual, it_pays):
    evaluator, one = usual
    assert ordered(evaluator, one, stop=lambda: True) == one


def test_limits_at_the_jobs_own_rate_are_kept_in_the_other_order_too(it_pays):
    given = job()
    limits = given.limits.model_copy(update={"ttft_p95": 1e-6})
    workload = given.workload.model_copy(update={"rate": 0.5})
    evaluator, one = found(given.model_copy(update={"workload": workload, "limits": limits}))
    assert ordered(evaluator, one) == one


@given(FIGURES, FIGURES)
def test_it_pays_where_first_tokens_come_sooner_and_nothing_is_worse(arrival, shortest):
    if pays(arrival, shortest):
        assert shortest.ttft_p95_s < arrival.ttft_p95_s
        assert shortest.ttft_mean_s <= arrival.ttft_mean_s
        assert shortest.tokens >= 0.99 * arrival.tokens
        assert shortest.itl_p95_s <= 1.05 * arrival.itl_p95_s
        assert not pays(shortest, arrival)
    sooner = replace(arrival, ttft_p95_s=0.9 * arrival.ttft_p95_s)
    assert pays(arrival, sooner)
    assert not pays(arrival, arrival)


@given(FIGURES, st.sampled_from(("tokens", "ttft_mean_s", "ttft_p95_s", "itl_p95_s")))
def test_where_no_token_came_it_does_not_pay(arrival, figure):
    sooner = replace(arrival, ttft_p95_s=0.9 * arrival.ttft_p95_s)
    assert not pays(arrival, replace(sooner, **{figure: float("nan")}))
