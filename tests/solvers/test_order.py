"""The shortest prompt goes first where that pays on arrivals, and only where the job leaves it open."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_df.graph.compile import compile_problem
from helix_df.simulator.simulation import Course, Simulation
from helix_df.solvers.baselines import baselines
from helix_df.solvers.api import SolveOptions, Watch
from helix_df.solvers.goodput.config import HELD_OUT, WHOLE_S, SearchConfig
from helix_df.solvers.goodput.evaluator import Evaluator
from helix_df.solvers.goodput.options import GoodputOptions
from helix_df.solvers.goodput.order import NEARLY_FULL, ArrivalFigures, choose_order, pays
from helix_df.solvers.goodput.placements import Scored, ranges_of
from helix_df.solvers.goodput.worker_pool import open_pool
from helix_df.spec.job import Job
from tests.solvers.test_chosen_rules import pinned
from tests.solvers.test_goodput import QUICK, job

SEED = 1000
SECONDS = st.floats(0.01, 1e3)
FIGURES = st.builds(ArrivalFigures, SECONDS, SECONDS, SECONDS, SECONDS)


def never() -> bool:
    return False


def found(given: Job, **options: object) -> tuple[Evaluator, Scored]:
    """A placement, saturated in simulation."""
    own = GoodputOptions(**cast(Any, {**QUICK, "validation_visits": 10_000_000, **options}))
    evaluator = Evaluator(SearchConfig(given, own), compile_problem(given), 0)
    _, placement = next(iter(baselines(evaluator.problem, SolveOptions(), Watch())))
    return evaluator, evaluator.validated(ranges_of(*evaluator.judge.arrays(placement)), SEED, "quick-nodes", never)


def ordered(evaluator: Evaluator, one: Scored, stop: Any = never) -> Scored:
    with open_pool() as pool:
        return choose_order(evaluator, pool, one, SEED, stop)


@pytest.fixture(scope="module")
def usual() -> tuple[Evaluator, Scored]:
    return found(job())


def ttft_p95_s(evaluator: Evaluator, one: Scored, shortest_first: bool) -> float:
    """On other arrivals than it was chosen by."""
    assert one.rules is not None
    rules = replace(one.rules, shortest_first=shortest_first)
    rate = NEARLY_FULL * one.score / evaluator.config.workload.output_tokens
    course: Course = evaluator.config.arriving(rate, rules, 7, HELD_OUT, WHOLE_S)
    run = Simulation(evaluator.setup(one.ranges, one.spread), course, form="compiled")
    run.run()
    return run.percentile("ttft", 95)


def test_it_is_chosen_where_first_tokens_come_sooner(usual):
    evaluator, one = usual
    chosen = ordered(evaluator, one)
    assert chosen == replace(one, rules=replace(one.rules, shortest_first=True))
    assert ttft_p95_s(evaluator, one, True) < ttft_p95_s(evaluator, one, False)


@pytest.mark.parametrize("said", [False, True])
def test_what_the_job_says_of_it_stays(said):
    evaluator, one = found(pinned(shortest_first=said))
    assert ordered(evaluator, one) == one
    assert one.rules is not None
    assert one.rules.shortest_first == said


def test_the_artifacts_rules_have_no_such_order():
    evaluator, one = found(job(), rules="artifact")
    assert ordered(evaluator, one) == one


def test_who_is_stopped_leaves_it(usual):
    evaluator, one = usual
    assert ordered(evaluator, one, stop=lambda: True) == one


def test_limits_at_the_jobs_own_rate_are_kept_in_the_other_order_too(usual):
    given = job()
    limits = given.limits.model_copy(update={"ttft_p95": 1e-6})
    rated = given.model_copy(
        update={"workload": given.workload.model_copy(update={"rate": 0.5}), "limits": limits}
    )
    evaluator, _ = found(rated)
    _, one = usual
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
