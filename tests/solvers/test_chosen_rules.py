"""Serving rules that goodput chooses: in the plan, obeyed by who serves and who simulates, never against the job."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from helix_df.errors import PlanError
from helix_df.load import load_job
from helix_df.plan.device_rules import NEAR_BEST, STEPS, best_steps, tokens_while_reading
from helix_df.plan.plan import Plan, from_document, read_plan, to_document, write_plan
from helix_df.plan.serving import LADDERS, ServingRules, first_choices, free_rules, next_to, rules_of, with_rules
from helix_df.planning import make_plan
from helix_df.profiles.timing import LayerTiming
from helix_df.runtime.coordinator.state import CoordinatorState
from helix_df.simulator.options import options_of
from helix_df.spec.job import Job, Runtime
from helix_df.what_if import keep_placement
from tests.solvers.test_goodput import QUICK, job

CHOSEN = ServingRules(max_batch=32, max_prefill_tokens=64, kv_high_water=0.95, expected_output=0.4)
FREE = tuple(LADDERS)
EXAMPLES = Path(__file__).parents[2] / "spec/examples"


def pinned(**runtime: object) -> Job:
    """The job with some of its rules said."""
    given = job()
    return given.model_copy(update={"runtime": given.runtime.model_copy(update=runtime)})


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(job())


@pytest.fixture(scope="module")
def ruled(plan: Plan) -> Plan:
    return replace(plan, rules=CHOSEN)


def test_a_plan_for_goodput_chooses_rules(plan):
    assert plan.rules is not None
    assert plan.rules in set(first_choices(rules_of(job()), FREE)) | set(next_to(plan.rules, FREE)) | {plan.rules}
    assert plan.job == job()
    assert rules_of(plan.served) == plan.rules


def test_what_the_job_says_stays():
    given = pinned(max_batch=24, max_prefill_tokens=48)
    assert free_rules(given) == ("kv_high_water", "expected_output", "micro_batches", "shortest_first")
    rules = make_plan(given).rules
    assert rules is not None
    assert (rules.max_batch, rules.max_prefill_tokens) == (24, 48)


def test_where_the_job_says_all_nothing_is_chosen():
    given = pinned(**asdict(rules_of(job())))
    assert make_plan(given).rules is None


def test_the_artifacts_rules_stay_as_they_are():
    assert make_plan(job(options={**QUICK, "rules": "artifact"})).rules is None


def test_tables_of_unknown_devices_choose_none():
    other = make_plan(job(name="petals", options={}))
    assert other.rules is None
    assert other.served is other.job


def test_other_solvers_go_by_the_devices_curves():
    given = load_job(EXAMPLES / "single24.yaml").with_solver(name="petals", options={})
    rules = make_plan(given).rules
    assert rules == replace(rules_of(given), max_batch=128, max_prefill_tokens=128)


def test_a_value_of_the_job_stands_against_the_devices():
    given = load_job(EXAMPLES / "single24.yaml").with_solver(name="petals", options={})
    said = given.model_copy(update={"runtime": Runtime(max_batch=16, max_prefill_tokens=512)})
    assert make_plan(said).rules is None
    half = given.model_copy(update={"runtime": Runtime(max_batch=16)})
    assert make_plan(half).rules == replace(rules_of(half), max_prefill_tokens=128)


CURVES = st.tuples(st.floats(0.001, 10), st.floats(1, 2000), st.floats(1e-5, 1e-1))


@drawn(CURVES)
def test_a_piece_takes_as_long_as_reading_the_weights(curve):
    floor_s, corner, step_s = curve
    timing = LayerTiming(((0.0, floor_s), (corner, floor_s), (2 * corner, 2 * floor_s)), ((0.0, step_s), (1.0, step_s)))
    assert tokens_while_reading(timing) == pytest.approx(min(corner, 1024), rel=0.02)


@drawn(CURVES)
def test_batches_are_as_small_as_nearly_the_best_speed_allows(curve):
    floor_s, corner, _ = curve
    timing = LayerTiming(((0.0, floor_s),), ((0.0, floor_s), (corner, floor_s), (2 * corner, 2 * floor_s)))
    best = best_steps(timing)
    speed = {steps: steps / timing.decode_s(steps) for steps in STEPS}
    assert speed[best] >= NEAR_BEST * max(speed.values())
    assert all(speed[steps] < NEAR_BEST * max(speed.values()) for steps in STEPS if steps < best)


def test_the_file_keeps_them(ruled, tmp_path: Path):
    write_plan(ruled, tmp_path / "a.plan.json")
    assert read_plan(tmp_path / "a.plan.json").rules == CHOSEN


def test_plans_of_before_have_none(ruled):
    document = json.loads(json.dumps(to_document(ruled)))
    document["version"] = 2
    del document["rules"]
    assert from_document(document).rules is None


def test_rules_that_are_none_are_refused(ruled):
    document = json.loads(json.dumps(to_document(ruled)))
    document["rules"]["max_batch"] = "many"
    with pytest.raises(PlanError, match="the choice of rules inside the plan is not valid"):
        from_document(document)


def test_the_simulator_goes_by_them(ruled):
    options = options_of(ruled.served)
    assert (options.max_batch, options.max_prefill_tokens) == (32, 64)
    assert (options.kv_high_water, options.expected_output) == (0.95, 0.4)


def test_workers_and_the_coordinator_go_by_them(ruled):
    coordinator = CoordinatorState(ruled, 2048)
    assert coordinator.ledger.high_water == 0.95
    node = ruled.stages[0].node
    welcome = coordinator.nodes_state._welcome(node, coordinator.nodes_state.nodes[node])
    assert Job.model_validate(welcome.job).runtime.max_batch == 32
    assert Job.model_validate(welcome.job).runtime.max_prefill_tokens == 64


def test_a_kept_placement_keeps_them(ruled):
    assert keep_placement(ruled, ruled.job).rules == CHOSEN


def test_steps_change_one_rule_and_leave_the_others():
    for rules in (CHOSEN, rules_of(job())):
        near = list(next_to(rules, FREE))
        assert near
        for other in near:
            assert sum(getattr(rules, name) != getattr(other, name) for name in FREE) == 1
            assert rules in set(next_to(other, FREE))
    assert list(next_to(CHOSEN, ())) == []
    assert first_choices(CHOSEN, ()) == [CHOSEN]


def test_a_job_without_rules_is_the_same_job():
    assert with_rules(job(), None) == job()
    assert rules_of(with_rules(job(), CHOSEN)) == CHOSEN
