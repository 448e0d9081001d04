"""From a job to a problem: which throughput is chosen, and which link is found."""

import pytest

from helix_df.graph.compile import compile_problem, mean_request
from helix_df.graph.problem import COORDINATOR
from helix_df.load import parse_job
from helix_df.profiles.read_geometry import catalogue

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
