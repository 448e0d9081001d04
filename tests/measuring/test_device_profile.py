"""From samples to curves, YAML and warnings: all numbers are made up here."""

from __future__ import annotations

import pytest

from helix_df.errors import SpecError
from helix_df.graph.compile import compile_problem, gpu_throughput, mean_request
from helix_df.graph.stage_timing import stage_timing
from helix_df.load import parse_job
from helix_df.measuring.device_profile import DeviceProfile, Memory, Sample, profile_yaml
from helix_df.measuring.differences import Difference, beyond
from helix_df.measuring.drift import profile_differences, stage_differences
from helix_df.planning import make_plan
from helix_df.profiles.read_geometry import read_geometry
from helix_df.profiles.timing import closed_form
from helix_df.runtime.requests import StageSpeed
from helix_df.simulator.setup import setup_of

SAMPLES = (
    Sample("prefill", 1, 16, (0.004, 0.002, 0.003)),
    Sample("prefill", 2, 16, (0.004,)),
    Sample("prefill", 2, 64, (0.010, 0.008, 0.009)),
    Sample("decode", 2, 8, (0.003,)),
    Sample("decode", 2, 1, (0.001,)),
)
REST = """
name: measured
model: {source: random:tiny}
nodes: {a: {gpu: box}, b: {gpu: box}}
links: {default: {bandwidth: 10Gbps, latency: 1ms}}
solver: even
"""


def device(samples: tuple[Sample, ...] = SAMPLES, memory: float = 2.0**30) -> DeviceProfile:
    return DeviceProfile("box", "a box", "random:tiny", 100, samples, Memory(memory, "made up"), 1000, (9000,) * 4)


def test_a_sample_is_its_median():
    assert SAMPLES[0].median_s == 0.003
    assert SAMPLES[0].layer_ms == pytest.approx(3.0)
    assert SAMPLES[2].layer_ms == pytest.approx(4.5)
    assert SAMPLES[0].spread == pytest.approx(2 / 3)


def test_curves_are_those_of_the_most_layers_by_size():
    assert device().curve_ms("prefill") == ((16, 2.0), (64, 4.5))
    assert device().curve_ms("decode") == ((1, 0.5), (8, 1.5))


def test_the_yaml_is_read_planned_and_simulated_with_the_measured_times():
    job = parse_job(profile_yaml(device()) + REST)
    profile = job.gpus["box"].profile
    assert profile is not None
    assert profile.prefill_ms == ((16, 2.0), (64, 4.5))
    assert job.gpus["box"].memory == 2.0**30
    plan = make_plan(job)
    assert plan.flow > 0
    for stage in setup_of(plan).stages:
        assert stage.timing.prefill_s(64) == pytest.approx(4.5e-3)
        assert stage.timing.prefill_s(4) == pytest.approx(2e-3)  # padded to the smallest batch that was measured
        assert stage.timing.decode_s(1) == pytest.approx(0.5e-3)
        assert stage.timing.decode_s(4.5) == pytest.approx(1e-3)
    assert parse_job(profile_yaml(device()) + REST) == job


@pytest.mark.parametrize("layers", [1, 3])
def test_planning_and_simulation_agree_on_declared_curves(layers: int):
    job = parse_job(profile_yaml(device()) + REST)
    geometry = read_geometry(job.model.parsed_source)
    requests = mean_request(job, geometry)
    planned = gpu_throughput(job, geometry, requests, "box")
    timing = stage_timing(job, geometry, requests, "box", layers, planned.kv_tokens[layers - 1])
    found = closed_form(timing, planned.kv_tokens[layers - 1], layers, requests)
    assert found == pytest.approx(planned.tokens_per_s[layers - 1], rel=1e-6)


def test_curves_by_hand():
    text = REST + "gpus: {box: {profile: {prefill_ms: [[512, 8]], decode_ms: [[1, 2], [4, 2]], kv_tokens: [512]}}}"
    text += "\nworkload: {input_length: 256, output_length: 256}"
    node = compile_problem(parse_job(text)).nodes[0]
    # One request fits the cache: 8 ms for the prompt (no less than the first point), 2 ms for each of 256 tokens.
    assert node.tokens_per_s == pytest.approx((512 / (0.008 + 256 * 0.002),))


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ("{prefill_ms: [[1, 2]]}", "incomplete"),
        ("{prefill_ms: [[1, 2]], decode_ms: [[1, 2]], tokens_per_s: [3]}", "both kinds"),
        ("{prefill_ms: [[4, 2], [2, 2]], decode_ms: [[1, 2]]}", "don't ascend"),
        ("{prefill_ms: [[4, 2], [4, 3]], decode_ms: [[1, 2]]}", "don't ascend"),
        ("{prefill_ms: [], decode_ms: [[1, 2]]}", "at least one entry"),
        ("{prefill_ms: [[0, 2]], decode_ms: [[1, 2]]}", "out of range"),
        ("{prefill_ms: [[1, 0]], decode_ms: [[1, 2]]}", "out of range"),
        ("{compute: 1TFLOPS, bandwidth: 1GB/s, kv_tokens: [4]}", "table or with curves"),
    ],
)
def test_curves_that_cannot_be_meant(profile: str, words: str):
    with pytest.raises(SpecError, match=words):
        parse_job(REST + f"gpus: {{box: {{memory: 1GiB, profile: {profile}}}}}")


def test_a_difference_counts_either_way_and_from_the_tolerance_on():
    slower, faster, near = (Difference("x", 1.0, value, "ms") for value in (1.6, 0.5, 1.4))
    assert beyond((slower, faster, near)) == (slower, faster)
    assert beyond((slower, faster, near), 3.0) == ()
    assert str(faster) == "x: measured 0.5 ms, expected 1 ms (2.0 times apart)"


def test_a_profile_is_held_against_the_jobs_curves():
    job = parse_job(profile_yaml(device()) + REST)
    assert profile_differences(job, device()) == ()
    slow = tuple(Sample(s.kind, s.layers, s.size, tuple(3 * t for t in s.seconds)) for s in SAMPLES)
    told = profile_differences(job, device(slow))
    assert len(told) == 4
    assert {round(one.factor, 6) for one in told} == {3.0}


def test_a_profile_is_held_against_the_jobs_table():
    table = "gpus: {box: {memory: 1GiB, profile: {tokens_per_s: [1000000, 500000, 300000, 200000]}}}"
    told = profile_differences(parse_job(REST + table), device())
    assert [one.unit for one in told] == ["tokens/s"] * 4
    assert all(one.measured < one.declared for one in told)


def test_stages_are_held_against_the_plan():
    plan = make_plan(parse_job(profile_yaml(device()) + REST))
    layers = {stage.node: len(stage.layers) for stage in plan.stages}
    as_planned = {node: StageSpeed(16, 2e-3 * count, 0.5e-3 * count) for node, count in layers.items()}
    assert stage_differences(plan, as_planned) == ()
    slow = as_planned | {"b": StageSpeed(16, as_planned["b"].prefill_s, 4 * as_planned["b"].decode_s)}
    (told,) = stage_differences(plan, slow)
    assert told.factor == pytest.approx(4)
    assert told.what.startswith("b (box, layers")
    assert "decode of 1" in told.what
    assert stage_differences(plan, slow, tolerance=5) == ()
    assert stage_differences(plan, {}) == ()


def test_a_node_is_expected_to_be_as_fast_as_its_share():
    job = parse_job(profile_yaml(device()) + REST)
    slow = {name: node.model_copy(update={"speed": 0.1}) for name, node in job.nodes.items()}
    plan = make_plan(job.model_copy(update={"nodes": slow}))
    (stage, *_) = plan.stages
    count = len(stage.layers)
    assert stage_differences(plan, {stage.node: StageSpeed(16, 20e-3 * count, 5e-3 * count)}) == ()
    told = stage_differences(plan, {stage.node: StageSpeed(16, 2e-3 * count, 0.5e-3 * count)})
    assert [round(one.factor, 6) for one in told] == [10.0, 10.0]


def test_a_table_is_only_doubted_when_the_timed_batches_rule_it_out():
    # 388 prompt and 124 generated tokens; a stage holds two of the four layers.
    text = REST + "gpus: {box: {memory: 1GiB, profile: {tokens_per_s: [2000, 1000, 600, 400]}}}"
    plan = make_plan(parse_job(text))
    possible = StageSpeed(16, 0.01, 0.01)  # from 346 to 5,890 tokens/s, depending on how many decode together
    assert stage_differences(plan, {"a": possible}) == ()
    (too_fast,) = stage_differences(plan, {"a": StageSpeed(16, 1e-4, 1e-4)})
    assert too_fast.measured > too_fast.declared
    (too_slow,) = stage_differences(plan, {"a": StageSpeed(16, 1.0, 1.0)})
    assert too_slow.measured < too_slow.declared
