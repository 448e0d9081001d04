"""Layers with experts among layers without: whatever stretch a node gets fits, and counts by what it holds."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helix_df.graph.bounds import best_bound
from helix_df.graph.compile import compile_problem, gpu_throughput
from helix_df.graph.problem import Origin
from helix_df.graph.speed_notices import speed_notices
from helix_df.graph.speed_source import speed_source
from helix_df.layers import LayerRange
from helix_df.measuring.profiler import middle_layers
from helix_df.plan.moves import load_bytes
from helix_df.plan.violations import violations
from helix_df.planning import make_plan
from helix_df.profiles.geometry import ModelGeometry
from helix_df.profiles.read_geometry import catalogue, geometry_from_config
from helix_df.profiles.tensor_names import model_tensors
from helix_df.profiles.throughput import USABLE_MEMORY, Requests, Roofline, from_roofline, kv_tokens_by_layers
from helix_df.profiles.timing import roofline_timing
from helix_df.spec.job import Job

LAYERS = 9
REQUESTS = Requests(100.0, 20.0, 8)


@st.composite
def geometries(draw: st.DrawFn) -> ModelGeometry:
    """Some layers with experts, whose layers are the heavier or the lighter ones."""
    config = {
        "model_type": "qwen3_moe",
        "hidden_size": 32,
        "intermediate_size": draw(st.sampled_from((16, 400))),
        "moe_intermediate_size": 24,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "num_hidden_layers": LAYERS,
        "vocab_size": 50,
        "tie_word_embeddings": draw(st.booleans()),
        "mlp_only_layers": sorted(draw(st.sets(st.integers(0, LAYERS - 1)))),
        "decoder_sparse_step": draw(st.integers(1, 3)),
    }
    return geometry_from_config(config, "drawn")


def job_of(source: str, nodes: dict[str, Any], gpus: dict[str, Any]) -> Job:
    model = {"source": source, "dtype": "bfloat16"}
    links = {"default": {"bandwidth": "10 Gb/s", "latency": "1 ms"}}
    return Job.model_validate({"name": "differing", "model": model, "nodes": nodes, "gpus": gpus, "links": links})


def header_bytes(geometry: ModelGeometry, layers: LayerRange, element_bytes: int) -> int:
    """Of every tensor that a checkpoint holds for ``layers``."""
    return element_bytes * sum(math.prod(shape) for shape in model_tensors(geometry, layers).values())


def stretches(count: int) -> list[LayerRange]:
    return [LayerRange(start, start + count) for start in range(LAYERS - count + 1)]


@settings(max_examples=60, deadline=None)
@given(geometry=geometries(), memory=st.integers(10_000, 3_000_000), element_bytes=st.sampled_from((2, 4)))
def test_whatever_stretch_a_node_gets_fits_its_memory(geometry, memory, element_bytes):
    cache_bytes = geometry.kv_bytes_per_token_layer(element_bytes)
    final_norm = geometry.hidden_size * element_bytes
    tokens = kv_tokens_by_layers(geometry, element_bytes, memory, REQUESTS)
    for count, kept in enumerate(tokens, start=1):
        used = [header_bytes(geometry, held, element_bytes) + kept * count * cache_bytes for held in stretches(count)]
        assert max(used) <= USABLE_MEMORY * memory + final_norm


@settings(max_examples=60, deadline=None)
@given(geometry=geometries(), cuts=st.sets(st.integers(1, LAYERS - 1)))
def test_what_stages_load_is_what_checkpoints_hold(geometry, cuts):
    for start, stop in pairwise([0, *sorted(cuts), LAYERS]):
        held = LayerRange(start, stop)
        assert load_bytes(None, held, geometry, 2) == header_bytes(geometry, held, 2)


@settings(max_examples=30, deadline=None)
@given(geometry=geometries(), old=st.integers(0, LAYERS - 2), new=st.integers(1, LAYERS - 1))
def test_a_move_loads_the_layers_that_are_new(geometry, old, new):
    before, after = LayerRange(old, LAYERS - 1), LayerRange(1, new + 1)
    shared = [layer for layer in range(1, new + 1) if layer in before]
    whole = load_bytes(None, after, geometry, 2)
    spared = sum(2 * geometry.parameters(LayerRange(layer, layer + 1)) for layer in shared)
    ends = 2 * geometry.embedding_parameters if geometry.tie_embeddings and before.start == 0 == old else 0
    found = load_bytes(before, after, geometry, 2)
    assert found in (whole - spared, whole - spared - ends)


@settings(max_examples=40, deadline=None)
@given(geometry=geometries(), tokens=st.integers(1, 500))
def test_every_layer_counts_as_the_slowest(geometry, tokens):
    roofline = Roofline(1e9, 1e8)
    mixed = roofline_timing(geometry, 2, roofline, REQUESTS)
    for dense in {(), tuple(range(LAYERS))} if 0 < len(geometry.experts.dense) < LAYERS else ():
        alike = replace(geometry, experts=replace(geometry.experts, dense=dense))
        timing = roofline_timing(alike, 2, roofline, REQUESTS)
        assert mixed.prefill_s(tokens) >= timing.prefill_s(tokens) * (1 - 1e-9)
        assert mixed.decode_s(tokens) >= timing.decode_s(tokens) * (1 - 1e-9)
        kept = (1000,) * LAYERS
        slow, quick = (from_roofline(each, 2, roofline, kept, REQUESTS).tokens_per_s for each in (geometry, alike))
        assert all(one <= other * (1 + 1e-9) for one, other in zip(slow, quick, strict=True))


def exact(geometry: ModelGeometry, held: LayerRange, memory: float, roofline: Roofline) -> tuple[float, int]:
    """Tokens/s and KV tokens of a node with these layers, layer by layer; no tokens where they don't fit."""
    alone = {kind.has_experts(0): kind for kind in geometry.kinds_alone()}
    matrices = 2 if len(held) == LAYERS and not geometry.tie_embeddings else 1
    weights = geometry.parameters(held) + matrices * geometry.embedding_parameters
    kept = int((USABLE_MEMORY * memory - 2 * weights) // (len(held) * geometry.kv_bytes_per_token_layer(2)))
    if kept < REQUESTS.tokens:
        return 0.0, kept
    rates = [
        from_roofline(alone[geometry.has_experts(layer)], 2, roofline, (kept,), REQUESTS).tokens_per_s[0]
        for layer in range(held.start, held.stop)
    ]
    return 1 / sum(1 / rate for rate in rates), kept


@settings(max_examples=60, deadline=None)
@given(geometry=geometries(), memory=st.integers(30_000, 3_000_000), count=st.integers(1, LAYERS))
def test_plans_count_no_more_and_bounds_no_less_than_layers_are(geometry, memory, count):
    gpu = {"memory": f"{memory} B", "profile": {"compute": "1 GFLOPS", "bandwidth": "0.1 GB/s"}}
    job = job_of("random:tiny", {"a": {"gpu": "G"}}, {"G": gpu})
    planned = gpu_throughput(job, geometry, REQUESTS, "G")
    bounding = gpu_throughput(job, geometry, REQUESTS, "G", favourable=True)
    assert len(planned.tokens_per_s) <= len(bounding.tokens_per_s)
    reached = speed_source(job, geometry, "G")
    assert isinstance(reached, Roofline)
    for held in stretches(count):
        rate, kept = exact(geometry, held, memory, reached)
        if count <= len(planned.kv_tokens):
            assert planned.kv_tokens[count - 1] <= kept
            assert planned.tokens_per_s[count - 1] <= rate * (1 + 1e-9)
        if rate:
            assert bounding.kv_tokens[count - 1] >= kept
            assert bounding.tokens_per_s[count - 1] >= rate * (1 - 1e-9)


def test_a_plan_of_layers_that_differ_has_a_bound_that_holds_and_no_other():
    nodes = {f"n{index}": {"gpu": "A100-80GB"} for index in range(3)}
    job = job_of("random:deepseek-v2-lite", nodes, {})
    problem = compile_problem(job)
    plan = make_plan(job, problem=problem)
    assert problem.differs
    assert not violations(plan)
    assert plan.solver.bound is None
    assert plan.certificate.bound >= best_bound(problem).bound


@settings(max_examples=30, deadline=None)
@given(geometry=geometries(), count=st.integers(1, LAYERS))
def test_profiles_measure_the_heaviest_layers(geometry, count):
    held = middle_layers(geometry, count)
    inner = [other for other in stretches(count) if other.start or count == LAYERS]
    assert len(held) == count
    assert geometry.parameters(held) == max(map(geometry.parameters, inner))


@pytest.mark.parametrize(
    ("name", "total"), [("deepseek-v2-lite", 15.7), ("deepseek-v2", 235.7), ("deepseek-v3", 671.0)]
)
def test_deepseek_has_the_parameters_of_its_papers(name, total):
    """arXiv 2405.04434 (15.7 and 236 billion), 2412.19437 (671 billion)."""
    geometry = catalogue()[name]
    assert round(header_bytes(geometry, LayerRange(0, geometry.num_layers), 1) / 1e9, 1) == total
    assert [geometry.has_experts(layer) for layer in range(4)] == [False, *[name != "deepseek-v3"] * 2, True]


def test_a_token_of_deepseek_v3_keeps_a_latent_and_a_rotated_key():
    geometry = catalogue()["deepseek-v3"]
    assert geometry.kv_bytes_per_token_layer(2) == 2 * (512 + 64)  # arXiv 2412.19437, 4.2
    assert 36 < (geometry.num_layers * geometry.active_parameters + geometry.embedding_parameters) / 1e9 < 38


def test_plans_say_that_layers_are_counted_as_the_heaviest():
    job = job_of("random:deepseek-v2-lite", {"a": {"gpu": "A100-80GB"}}, {})
    (said,) = speed_notices(job, Origin(catalogue()["deepseek-v2-lite"], REQUESTS))
    assert "1 of 27 have no experts" in said
    assert not speed_notices(job, Origin(catalogue()["tiny"], REQUESTS))
