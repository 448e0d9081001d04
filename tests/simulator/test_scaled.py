"""A job whose nodes come and go, under a trace."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from helix_df.plan.plan import Plan
from helix_df.plan.violations import violations
from helix_df.planning import make_plan
from helix_df.simulator import Options, options_of, setup_of, simulate
from helix_df.simulator.scaled import simulate_scaled
from helix_df.simulator.synthetic import constant, diurnal, poisson
from helix_df.spec.job import Job
from helix_df.what_if.sizes import plan_sizes

JOB = Job.model_validate(
    {
        "model": {"source": "random:tiny", "context": 256},
        "gpus": {
            "toy": {
                "memory": "1GiB",
                "profile": {
                    "tokens_per_s": [400, 200, 130, 100],
                    "kv_tokens": [2048] * 4,
                    "measured_at": {"batch": 4, "input_length": 40, "output_length": 20},
                },
            }
        },
        "nodes": {"base": {"gpu": "toy"}, "spot": {"gpu": "toy", "count": 3}},
        "links": {"default": {"bandwidth": "10Gbps", "latency": "1ms"}},
        "workload": {"input_length": 40, "output_length": 20},
        "runtime": {"max_batch": 4, "max_prefill_tokens": 64},
        "scale": {"nodes": ["spot-*"], "queue_time": "500ms", "up_after": "2s", "down_after": "30s"},
        "solver": {"name": "auto", "time_limit": "5s"},
    }
)


@pytest.fixture(scope="module")
def ladder() -> dict[int, Plan]:
    return {size: plan for size, plan in plan_sizes(make_plan(JOB)) if isinstance(plan, Plan)}


def test_each_size_has_a_right_plan_that_uses_the_nodes_taken_first(ladder: dict[int, Plan]) -> None:
    assert sorted(ladder) == [0, 1, 2, 3]
    for size, plan in ladder.items():
        assert violations(plan) == []
        assert plan.placement.keys() <= {"base", *(f"spot-{n}" for n in range(1, size + 1))}
    flows = [ladder[size].flow for size in sorted(ladder)]
    assert flows == sorted(flows)
    assert flows[-1] > 2 * flows[0]


def test_a_size_that_stays_is_the_plan_simulated(ladder: dict[int, Plan]) -> None:
    trace = poisson(1.0, 60.0, constant(40), constant(20), seed=1)
    found = simulate_scaled({3: ladder[3]}, 3, trace, JOB.scale, seconds=60.0, start_s=5.0)
    alone = simulate(setup_of(ladder[3]), trace, options_of(ladder[3].served, seconds=61.0, warmup_s=0.0, drain=True))
    np.testing.assert_array_equal(found.requests.first_token_s, alone.requests.first_token_s)
    np.testing.assert_array_equal(found.requests.finished_s, alone.requests.finished_s)
    assert [one.size for one in found.sizes] == [3]
    assert found.node_seconds == pytest.approx(180.0)


def test_a_day_takes_nodes_and_lets_them_go_and_serves_all(ladder: dict[int, Plan]) -> None:
    flow = ladder[3].flow
    trace = diurnal(0.35 * flow / 60, 300.0, constant(40), constant(20), seed=5, period_s=300.0, low=0.05)
    found = simulate_scaled(ladder, 3, trace, JOB.scale, seconds=300.0, start_s=3.0)
    requests = found.requests
    assert np.all(requests.generated_tokens == 20)
    assert np.all(requests.admitted_s >= requests.arrived_s)
    assert np.all(requests.first_token_s > requests.admitted_s)
    ups = [one for one in found.sizes if one.step is not None and one.step.after > one.step.before]
    downs = [one for one in found.sizes if one.step is not None and one.step.after < one.step.before]
    assert ups
    assert downs
    for before, after in pairwise(found.sizes):
        assert before.to_s == after.from_s == after.begun_s + 3.0
        assert after.step is not None
        assert (after.step.before, after.step.after) == (before.size, after.size)
    smallest = simulate_scaled({0: ladder[0]}, 0, trace, JOB.scale, seconds=300.0, start_s=3.0)
    largest = simulate_scaled({3: ladder[3]}, 3, trace, JOB.scale, seconds=300.0, start_s=3.0)
    assert largest.missed(2.0) <= found.missed(2.0) < smallest.missed(2.0)
    assert 0 < found.node_seconds < 0.8 * largest.node_seconds
    again = simulate_scaled(ladder, 3, trace, JOB.scale, seconds=300.0, start_s=3.0)
    np.testing.assert_array_equal(again.requests.finished_s, requests.finished_s)


def test_rules_of_the_caller_go_before_those_of_the_job(ladder: dict[int, Plan]) -> None:
    trace = poisson(3.0, 30.0, constant(40), constant(20), seed=1)
    drops = Options(max_batch=4, max_queue=1, mean_output=20)
    found = simulate_scaled({0: ladder[0]}, 0, trace, JOB.scale, seconds=30.0, start_s=1.0, options=drops)
    assert found.requests.rejected.any()
    assert np.all(np.isinf(found.ttft_s()) == found.requests.rejected)
