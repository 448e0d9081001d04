"""Steps that carry drafted tokens: where none can be right nothing changes, and right ones never cost anything."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helix_df.benchmarking.measured_drafts import MeasuredDrafts
from helix_df.planning import make_plan
from helix_df.profiles.catalogue import Measured
from helix_df.profiles.expected_drafts import ExpectedDrafts
from helix_df.profiles.throughput import Requests, from_curves
from helix_df.profiles.timing import LayerTiming
from helix_df.rules.speculation import expected_tokens
from helix_df.runtime.worker import stage_speed
from helix_df.simulator import Options, Outcome, Setup, Trace, options_of, setup_of, simulate
from helix_df.simulator.kernel.drafts import TIMED_TOKENS, has_drafts, is_right
from helix_df.simulator.simulation import Course, Simulation
from helix_df.spec.job import Job
from property_tests.test_simulator import rules, setups, traces
from tests.simulator.small import chain, stage, trace

SHARES = st.sampled_from((0.1, 0.5, 0.9, 1.0))


def tokens_of(setup: Setup, asked: Trace, options: Options) -> tuple[np.ndarray, ...]:
    simulation = Simulation(setup, Course(asked, options), form="plain", record_tokens=True)
    simulation.run()
    return simulation.tokens


@settings(max_examples=40)
@given(setups(), traces(), rules(), st.integers(1, 15), SHARES, st.sampled_from(("acceptance", "coverage")))
def test_where_no_draft_can_be_right_nothing_changes(setup, asked, options, drafts, share, nothing):
    options = replace(options, drafts=0, routing="admission", layer_steps=False, bundles=True)
    shares = {"acceptance": share, "coverage": share, nothing: 0.0}
    none, never = tokens_of(setup, asked, options), tokens_of(setup, asked, replace(options, drafts=drafts, **shares))
    for mine, theirs in zip(none, never, strict=True):
        assert np.array_equal(mine, theirs)


FAR = LayerTiming(((0.0, 0.01), (16.0, 0.01), (32.0, 0.02)), ((0.0, 0.01), (64.0, 0.01)))
"""Of a device that computes up to 16 tokens in the time of one."""


def alone(timing: LayerTiming, output: int, options: Options, latency_s: float = 0.05) -> Outcome:
    """One request, through two stages that are far apart."""
    setup = chain(stage("a", 0, 1, timing=timing), stage("b", 1, 2, timing=timing), latency_s=latency_s)
    return simulate(setup, trace((0.0, 20, output)), options, form="plain")


def drafting(drafts: int, acceptance: float, coverage: float = 1.0, seed: int = 0) -> Options:
    return Options(
        seconds=1e6, warmup_s=0.0, drain=True, seed=seed, drafts=drafts, acceptance=acceptance, coverage=coverage
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.lists(st.floats(0.3, 1.0), min_size=2, max_size=4), st.integers(2, 60), st.integers(0, 9))
def test_more_right_drafts_that_cost_nothing_are_never_later(drafts, acceptances, output, seed):
    # So far apart that all drafts are worth it, whatever the estimate.
    ends = [
        float(alone(FAR, output, drafting(drafts, acceptance, seed=seed), 1e3).requests.finished_s[0])
        for acceptance in sorted(acceptances)
    ]
    assert all(later <= sooner + 1e-9 for sooner, later in itertools.pairwise(ends))


def test_a_long_answer_is_the_faster_the_more_drafts_are_right():
    costly = LayerTiming(((0.0, 0.01), (16.0, 0.02), (32.0, 0.04)), ((0.0, 0.01), (1.0, 0.0101), (64.0, 0.05)))
    ends = [
        float(alone(costly, 1500, drafting(7, acceptance, coverage=0.7)).requests.finished_s[0])
        for acceptance in (0.0, 0.3, 0.5, 0.7, 0.85, 1.0)
    ]
    assert all(later < 0.99 * sooner for sooner, later in itertools.pairwise(ends))


def test_tokens_of_a_step_come_together_and_a_first_token_as_without_drafts():
    plain, quick = alone(FAR, 41, drafting(0, 0.0)), alone(FAR, 41, drafting(4, 1.0))
    assert quick.ttft_s == plain.ttft_s
    assert quick.decode_tokens == plain.decode_tokens == 41
    # All are right: after the first, steps bring five each, of which four come with the one before them.
    assert len(quick.gaps_s) == len(plain.gaps_s) == 40
    assert (quick.gaps_s == 0).sum() == 32
    assert quick.requests.finished_s[0] - quick.ttft_s[0] == pytest.approx(
        (plain.requests.finished_s[0] - plain.ttft_s[0]) / 5, rel=1e-3
    )
    assert quick.gaps_s.mean() == pytest.approx(plain.gaps_s.mean() / 5, rel=1e-3)


@settings(max_examples=30)
@given(st.floats(0, 1), st.integers(0, 2**40), st.integers(0, 3000))
def test_drafts_are_drawn_as_often_as_said_and_more_of_them_include_the_fewer(share, seed, request):
    places = range(4000)
    right, covered = (
        np.array([one(seed, request, place, share) for place in places]) for one in (is_right, has_drafts)
    )
    assert abs(right.mean() - share) < 0.05
    assert abs(covered.mean() - share) < 0.05
    if 0.1 < share < 0.9:
        assert abs(np.corrcoef(right, covered)[0, 1]) < 0.1
        assert abs(np.corrcoef(right[1:], right[:-1])[0, 1]) < 0.1
    rarer = np.array([is_right(seed, request, place, share * 0.7) for place in places])
    assert not np.any(rarer & ~right)


def test_the_coordinator_is_taken_to_know_what_workers_time():
    assert TIMED_TOKENS == stage_speed.PREFILL_TOKENS


@settings(max_examples=60)
@given(st.integers(1, 15), SHARES, SHARES, st.sampled_from((1, 8, 64)))
def test_drafts_never_lower_a_planned_throughput_nor_exceed_what_they_carry(drafts, acceptance, coverage, batch):
    measured = Measured(
        prefill=((0.0, 0.01), (512.0, 0.1)),
        decode=((0.0, 0.01), (16.0, 0.012), (64.0, 0.04), (512.0, 0.3)),
        kv_tokens=(10**6,),
        max_batch=(10**6,),
    )
    plain = Requests(500, 200, batch)
    expected = ExpectedDrafts(drafts, acceptance, coverage)
    without, found = (
        from_curves(measured, one, 1).tokens_per_s[0] for one in (plain, replace(plain, drafted=expected))
    )
    most = from_curves(measured, replace(plain, max_batch=batch * (1 + drafts)), 1).tokens_per_s[0]
    assert without <= found <= most * (1 + 1e-9)
    for steps in expected.choices():
        assert 1 <= steps.given <= steps.carried * (1 + 1e-12)


@settings(max_examples=60)
@given(st.integers(1, 15), st.floats(0.01, 0.99), st.integers(1, 500))
def test_measured_acceptance_gives_as_many_right_drafts(drafts, acceptance, sent):
    right = sent * (expected_tokens(drafts, acceptance) - 1)
    found = MeasuredDrafts(2 * sent, sent, sent, drafts * sent, round(right))
    assert found.coverage == 0.5
    if found.accepted < found.drafted:
        assert sent * (expected_tokens(drafts, found.acceptance) - 1) == pytest.approx(found.accepted, abs=1e-6)
    assert MeasuredDrafts(10, 5, 0, 0, 0).acceptance == 0


def speculating(batch: int, drafts: int) -> Job:
    """A model on three nodes that are alike, whose steps take as long as reading the weights does."""
    speculation = {"drafts": drafts, "acceptance": 0.9, "coverage": 1.0} if drafts else None
    return Job.model_validate(
        {
            "name": "speculating",
            "model": {"source": "random:llama-3-8b", "dtype": "bfloat16"},
            "nodes": {name: {"gpu": "A100-40GB"} for name in "abc"},
            "links": {"default": {"bandwidth": "100 Gb/s", "latency": "0.1 ms"}},
            "workload": {"input_length": 64, "output_length": 448},
            "runtime": {"max_batch": batch, "speculation": speculation, "expected_output": 1.0},
            "solver": "even",
        }
    )


@pytest.mark.parametrize("batch", [1, 4])
def test_the_flow_stays_above_what_drafts_give(batch):
    plain, quick = (make_plan(speculating(batch, drafts)) for drafts in (0, 7))
    # A flow counts a decode step for every token of an answer; here the prompt gives the first.
    asked, served = trace(*[(0.0, 64, 449)] * 24), []
    for plan in (plain, quick):
        options = options_of(plan.served, seconds=1e3, warmup_s=0.0, drain=True)
        done_s = simulate(setup_of(plan), asked, options, form="plain").requests.finished_s
        served.append(24 * 512 / done_s.max())
    assert served[0] <= plain.flow
    assert plain.flow < served[1] <= quick.flow <= quick.certificate.bound
