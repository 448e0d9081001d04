"""From a job to a problem: which throughput is chosen, and which link is found."""

from dataclasses import replace

import pytest

from helix_df.errors import SpecError
from helix_df.graph.capacities import link_matrix, request_matrix
from helix_df.graph.compile import compile_problem, mean_request
from helix_df.graph.limits import requests_at_once
from helix_df.graph.max_flow import placement_flow
from helix_df.graph.problem import COORDINATOR
from helix_df.layers import LayerRange
from helix_df.load import parse_job
from helix_df.plan.plan import SolverReport, assemble, from_document, to_document
from helix_df.plan.violations import violations
from helix_df.profiles.read_geometry import catalogue
from helix_df.simulator.setup import setup_of
from tests.runtime.tiny import tiny_plan

JOB = """\
model: {source: random:llama-2-70b, dtype: float16}
gpus: {GPUS}
nodes: {NODES}
links: {default: {bandwidth: 1GB/s, latency: 1ms}}
"""


def node(gpu, gpus="{}", job=JOB):
    text = job.replace("{GPUS}", gpus).replace("{NODES}", f"{{a: {{gpu: {gpu}}}}}")
    return compile_problem(parse_job(text)).nodes[0]


def test_measured_curves_come_before_the_roofline():
    assert node("L4").max_layers == 7
    assert node("L4").kv_tokens[0] == 266146 * 16


def test_an_altered_device_is_no_longer_the_measured_one():
    assert node("L4", "{L4: {memory: 48GB}}").max_layers > 20


def test_a_declared_table_comes_first_and_cache_from_memory_fills_it_in():
    declared = node("L4", "{L4: {profile: {tokens_per_s: [900, 400, 200]}}}")
    assert declared.tokens_per_s == (900, 400, 200)
    assert declared.kv_tokens[0] > declared.kv_tokens[2] > 990


def test_a_declared_table_is_cut_where_memory_ends():
    assert node("x", "{x: {memory: 4GB, profile: {tokens_per_s: [900, 400, 200]}}}").tokens_per_s == (900,)


def test_efficiency_scales_a_declared_roofline():
    def rate(share):
        profile = f"compute: 100TFLOPS, bandwidth: 1TB/s, efficiency: {share}"
        return node("x", f"{{x: {{memory: 24GB, profile: {{{profile}}}}}}}").tokens_per_s[0]

    assert rate(1.0) == pytest.approx(2 * rate(0.5))


def test_a_device_too_small_for_a_layer_holds_none():
    assert node("x", "{x: {memory: 1GB, profile: {compute: 1TFLOPS, bandwidth: 1GB/s}}}").max_layers == 0


def test_the_mean_request_is_shortened_to_the_context():
    job = parse_job(JOB.replace("{GPUS}", "{}").replace("{NODES}", "{a: {gpu: L4}}").replace("llama-2-70b", "tiny"))
    mean = mean_request(job, catalogue()["tiny"])
    assert mean.tokens == pytest.approx(512)
    assert mean.input_tokens / mean.output_tokens == pytest.approx(750 / 240)


def test_links_by_node_then_region_then_default():
    text = """\
model: {source: random:tiny}
nodes: {a: {gpu: L4, region: eu}, b: {gpu: L4, region: eu}, c: {gpu: L4, region: us}}
coordinator: {region: us}
links:
  regions: [{between: [eu, eu], bandwidth: 5GB/s}, {between: [us, eu], bandwidth: 4GB/s}]
  nodes: [{between: [c, a], bandwidth: 3GB/s}, {between: [coordinator, b], bandwidth: 2GB/s, latency: 7ms}]
"""
    problem = compile_problem(parse_job(text))

    def rate(a, b):
        link, back = problem.links.find(a, b), problem.links.find(b, a)
        assert link == back
        return link and link.bytes_per_s / 1e9

    assert [rate("a", "b"), rate("b", "c"), rate("a", "c"), rate(COORDINATOR, "b")] == [5, 4, 3, 2]
    assert rate(COORDINATOR, "a") == 4
    assert rate(COORDINATOR, "c") is None  # us to us isn't declared
    assert problem.link_capacity(COORDINATOR, "b") == 2e9 / 2
    assert problem.link_capacity("a", "b") == 5e9 / (64 * 4)


def test_a_codec_lets_more_tokens_through_between_nodes_but_not_from_the_coordinator():
    text = """\
model: {source: random:llama-2-70b, dtype: float16}
nodes: {a: {gpu: L4}, b: {gpu: L4}, c: {gpu: L4}}
links:
  default: {bandwidth: 1GB/s, latency: 1ms, codec: int8}
  nodes: [{between: [a, c], bandwidth: 1GB/s, codec: bfloat16}]
"""
    problem = compile_problem(parse_job(text))
    assert problem.link_capacity("a", "b") == 1e9 / (8192 + 2 * 512)
    assert problem.link_capacity("a", "c") == 1e9 / (8192 * 2)
    assert problem.link_capacity(COORDINATOR, "a") == 1e9 / 2
    matrix = link_matrix(problem)
    assert [matrix[0, 1], matrix[0, 2], matrix[3, 0]] == [
        problem.link_capacity(*pair) for pair in (("a", "b"), ("a", "c"), (COORDINATOR, "a"))
    ]


def test_a_slower_node_serves_its_share_of_what_its_gpu_does_and_keeps_its_memory():
    job = JOB.replace("{GPUS}", "{}").replace("{NODES}", "{a: {gpu: L4}, b: {gpu: L4, speed: 0.25}}")
    whole, quarter = compile_problem(parse_job(job)).nodes
    assert quarter.tokens_per_s == tuple(rate / 4 for rate in whole.tokens_per_s)
    assert quarter.kv_tokens == whole.kv_tokens


@pytest.mark.parametrize("speed", ["0", "-1", "1.5", "fast"])
def test_a_speed_is_a_share(speed):
    with pytest.raises(SpecError, match=r"nodes\.a\.speed"):
        node("L4", job=JOB.replace("{NODES}", "{a: {gpu: L4, speed: SPEED}}").replace("SPEED", speed))


def test_the_simulator_sees_codecs_and_speeds_as_the_plan_does():
    plan = tiny_plan(
        {"a": LayerRange(0, 2), "b": LayerRange(2, 4)},
        nodes={"a": {"gpu": "toy"}, "b": {"gpu": "toy", "speed": 0.5}},
        links={"default": {"bandwidth": "10Gbps", "latency": "1ms", "codec": "int8"}},
    )
    setup = setup_of(plan)
    ratios = {(link.tail, link.head): link.ratio for link in setup.links}
    assert ratios == {(COORDINATOR, "a"): 1.0, ("a", "b"): (64 + 2 * 4) / (64 * 4), ("b", COORDINATOR): 1.0}
    assert setup_of(plan, codec_ratio=0.5).links[1].ratio == 0.5
    a, b = setup.stages
    assert b.timing.decode_s(3) == pytest.approx(2 * a.timing.decode_s(3))
    assert [stage.tokens_per_s for stage in plan.stages] == [200, 100]


WINDOWS = """\
model: {source: random:gemma-3-27b, dtype: float16}
gpus: {x: {memory: 80GB, profile: {compute: 100TFLOPS, bandwidth: 1TB/s}}}
nodes: {a: {gpu: x}, b: {gpu: x}}
workload: {input_length: 16000, output_length: 400}
links: {default: {bandwidth: 1GB/s, latency: 1ms}}
"""


def test_layers_with_a_window_keep_no_more_than_it():
    """Of Gemma 3's 62 layers every sixth sees all; the others 1,024 tokens, and a piece of 512 beside them."""
    planned = compile_problem(parse_job(WINDOWS))
    few = 64 * 16 + 33 * 16
    assert planned.limits.held_tokens(1) == 16400
    assert planned.limits.held_tokens(6) == pytest.approx((16400 + 5 * few) / 6)
    assert planned.limits.held_tokens(62) == pytest.approx((10 * 16400 + 52 * few) / 62)
    node, fits = planned.nodes[0], request_matrix(planned)
    assert fits[0, 62] == node.kv_tokens[61] // planned.limits.held_tokens(62) == 4 * (node.kv_tokens[61] // 16400)
    assert requests_at_once(planned, {"a": LayerRange(0, 62)}) == fits[0, 62]


def test_a_plan_says_where_cache_is_freed():
    job = parse_job(WINDOWS)
    planned, placement = compile_problem(job), {"a": LayerRange(0, 5), "b": LayerRange(5, 62)}
    report = SolverReport("hand", None, "finished", "", None, 0.0)
    plan = assemble(job, planned, placement, placement_flow(planned, placement), report)
    assert [(stage.windowed, stage.kv_window) for stage in plan.stages] == [(5, 1024), (47, 1024)]
    assert [(stage.windowed, stage.kv_window) for stage in setup_of(plan).stages] == [(5, 1024), (47, 1024)]
    assert from_document(to_document(plan)) == plan
    assert violations(plan) == []
    for windowed, window in ((5, 512), (6, 1024)):
        first = replace(plan.stages[0], windowed=windowed, kv_window=window)
        tampered = replace(plan, stages=(first, plan.stages[1]))
        assert "a is said to free KV cache" in violations(tampered)[0]
    keeps_all = replace(plan, stages=tuple(replace(stage, windowed=0, kv_window=0) for stage in plan.stages))
    assert violations(keeps_all) == [], "as plans of earlier releases do"
