"""The KV cache in formats of its own: bytes as planned, how far answers are off, prefixes, windows and latents."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from helix_df.errors import SpecError
from helix_df.graph.compile import compile_problem
from helix_df.layers import LayerRange
from helix_df.load import parse_job
from helix_df.models.weights import load_shard
from helix_df.profiles.kv_formats import KvFormat, kv_token_bytes
from helix_df.profiles.read_geometry import read_geometry
from helix_df.runtime.sampling import SamplingParams
from helix_df.runtime.worker.engine import Engine
from helix_df.runtime.worker.steps import Step
from helix_df.spec.source import ModelSource
from tests.cases.files import job_text
from tests.oracle.cases import prompt_ids
from tests.oracle.family_checkpoints import write_family

TINY = ModelSource("random", "tiny")
FARTHEST: dict[KvFormat, float] = {"bfloat16": 0.001, "int8": 0.015}
"""How far from float32 the next token's probabilities may be: KL divergence in nats. In these checkpoints every number
matters more than in trained ones."""

PAGES, PIECE = 10, 16


@functools.cache
def tiny():
    return load_shard(TINY, read_geometry(TINY), seed=1)


def engine_of(shard, kv, **options):
    settings = {"num_pages": PAGES, "max_batch": 1, "max_prefill": PIECE, "layers_per_call": 1, "pages_at_once": 2}
    return Engine(shard, kv=kv, **{**settings, **options})


def pools(engine):
    return jax.tree.leaves(engine.programs._caches)


def log_probabilities(engine, shard, ids):
    """After each piece, by way of the cache."""
    programs, each = engine.programs, []
    table = np.arange(1, PAGES + 1, dtype=np.int32)[None]
    for at in range(0, len(ids), PIECE):
        piece = np.asarray(ids[at : at + PIECE], np.int32)[None]
        lengths = np.array([piece.shape[1]], np.int32)
        batch = programs.prepare(table[None], np.array([at], np.int32), lengths, PIECE)
        hidden = programs.run_layers(programs.embed(piece), batch, shard.layers)
        each.append(np.asarray(jax.nn.log_softmax(programs.last_logits(hidden, lengths))))
    return np.concatenate(each)


@pytest.mark.parametrize("name", ["gemma2", "deepseek-v3", "gpt-oss"])
def test_answers_are_off_by_no_more_than_said(tmp_path, name):
    """With windows of 32 tokens, latents, and sinks."""
    source = ModelSource("hf", str(write_family(tmp_path, name)))
    geometry = read_geometry(source)
    shard, ids = load_shard(source, geometry), prompt_ids(geometry.vocab_size, 6 * PIECE)
    exact = log_probabilities(engine_of(shard, None), shard, ids)
    for kv, farthest in FARTHEST.items():
        engine = engine_of(shard, kv)
        tokens = (PAGES + 1) * PIECE * geometry.num_layers
        assert sum(pool.nbytes for pool in pools(engine)) == tokens * kv_token_bytes(geometry, kv)
        divergence = (np.exp(exact) * (exact - log_probabilities(engine, shard, ids))).sum(axis=-1).mean()
        assert 0 < divergence < farthest, kv


def last(engine, request, ids, position=0):
    """Token and log-probabilities after ``ids``, those before ``position`` being in the cache."""
    tokens = np.asarray(ids[position:], np.int32)
    sampling = SamplingParams(logprobs=8)
    (result,) = engine.run([Step(request, engine.layers, position, tokens=tokens, sampling=sampling)])
    return result.token, result.logprobs.top


@pytest.mark.parametrize("kv", ["bfloat16", "int8"])
def test_a_prefix_of_the_cache_is_what_was_computed(kv):
    ids = prompt_ids(read_geometry(TINY).vocab_size, 60)
    engine = engine_of(tiny(), kv)
    alone = last(engine, "alone", ids)
    engine.fork("alone", "child", 48)
    engine.trim("alone", 48)
    child = last(engine, "child", ids, 48)
    assert child[0] == alone[0]
    np.testing.assert_allclose([value for _, value in child[1]], [value for _, value in alone[1]], atol=1e-4)
    engine.release("alone")
    engine.release("child")
    assert last(engine, "after", ids) == alone, "pages leave nothing behind"


def test_what_is_no_number_is_told_and_scrubbed():
    layers = LayerRange(1, 3)
    engine = engine_of(load_shard(TINY, read_geometry(TINY), layers), "int8")
    good = np.full((20, engine.geometry.hidden_size), 0.1, np.float32)
    bad = good.copy()
    bad[5] = np.nan

    def finite(request, hidden):
        (result,) = engine.run([Step(request, layers, 0, hidden=hidden)])
        engine.release(request)
        return result.hidden if result.finite else None

    first = finite("first", good)
    assert first is not None
    assert finite("bad", bad) is None
    np.testing.assert_array_equal(finite("again", good), first)


DEVICES = """
import json, jax
jax.config.update("jax_num_cpu_devices", 2)
from tests.unit.test_kv_formats import *
from helix_df.models.weights import load_shares
geometry = read_geometry(TINY)
ids = prompt_ids(geometry.vocab_size, 40)
shared = load_shares(TINY, geometry, LayerRange(0, geometry.num_layers), jax.devices()[:2], seed=1)
found = {}
for kv in ("int8", "bfloat16"):
    one, two = engine_of(tiny(), kv), engine_of(shared, kv)
    shards = [share for pool in pools(two) for share in pool.addressable_shards]
    held = [sum(share.data.nbytes for share in shards if share.device == device) for device in jax.devices()]
    found[kv] = [last(one, "r", ids), last(two, "r", ids), held]
print(json.dumps(found))
"""


def test_two_devices_keep_half_each_and_say_the_same():
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", DEVICES], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    geometry = read_geometry(TINY)
    for kv, (one, two, held) in json.loads(done.stdout).items():
        assert one[0] == two[0]
        np.testing.assert_allclose(one[1][0][1], two[1][0][1], atol=1e-3)
        whole = (PAGES + 1) * PIECE * geometry.num_layers * kv_token_bytes(geometry, kv)
        assert held == [whole // 2] * 2


def with_model(*options):
    return job_text(TINY).replace("model: {", f"model: {{{', '.join(options)}, ")


def test_plans_count_the_bytes_that_a_token_keeps():
    geometry = read_geometry(TINY)
    jobs = {kv: parse_job(with_model(f"kv: {kv}")) for kv in ("float32", "bfloat16", "int8")}
    tokens = {kv: compile_problem(job).nodes[0].kv_tokens[0] for kv, job in jobs.items()}
    assert tokens["bfloat16"] == pytest.approx(2 * tokens["float32"], rel=1e-6)
    heads, width = geometry.num_kv_heads, geometry.head_dim
    assert kv_token_bytes(geometry, "int8") == 2 * heads * (width + 2)
    assert tokens["int8"] * (width + 2) == pytest.approx(tokens["float32"] * 4 * width, rel=1e-6)
    assert jobs["float32"].model.computed_as == "float32"
    assert jobs["int8"].model.computed_as == "float32, kv int8"


def test_a_cache_wider_than_what_is_computed_is_refused():
    with pytest.raises(SpecError) as refused:
        parse_job(with_model("kv: float32", "dtype: bfloat16"))
    assert "more bits than bfloat16" in str(refused.value)
