"""However layers, prompts and batches are cut, the numbers are those of the whole model."""

from __future__ import annotations

import functools
import itertools

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from helix_df.layers import LayerRange
from helix_df.models.decoder import DecoderShard
from helix_df.models.linear import Layout
from helix_df.models.weights import load_shard
from helix_df.profiles.read_geometry import read_geometry
from helix_df.runtime.sampling import SamplingParams
from helix_df.runtime.worker.engine import Engine
from helix_df.runtime.worker.single_process import generate_in_process
from helix_df.runtime.worker.steps import Step
from helix_df.spec.source import ModelSource
from tests.whole_model import whole_logits

SOURCE = ModelSource("random", "tiny-16")
GEOMETRY = read_geometry(SOURCE)
LAYERS = GEOMETRY.num_layers
LONGEST = 48
HELD = (LayerRange(0, 7), LayerRange(3, 12), LayerRange(9, 16))


@functools.cache
def shard(layers: LayerRange, layout: Layout = "panels") -> DecoderShard:
    return load_shard(SOURCE, GEOMETRY, layers, seed=7, layout=layout)


@functools.cache
def engine(layers: LayerRange, layers_per_call: int = 4, pages_at_once: int | None = None) -> Engine:
    """Shared between examples, to compile once; every example releases what it used."""
    return Engine(
        shard(layers),
        num_pages=24,
        max_batch=4,
        max_context=128,
        max_prefill=32,
        layers_per_call=layers_per_call,
        pages_at_once=pages_at_once,
    )


@functools.cache
def whole():
    return shard(LayerRange(0, LAYERS), "rows")


def expected_logits(tokens: np.ndarray) -> np.ndarray:
    padded = np.zeros((1, 64), np.int32)
    padded[0, : len(tokens)] = tokens
    return whole_logits(whole(), padded)[0, : len(tokens)]


def tokens_of(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, GEOMETRY.vocab_size, count).astype(np.int32)


def chunks(draw, count: int) -> list[tuple[int, int]]:
    cuts = sorted(draw(st.sets(st.integers(1, count - 1), max_size=4))) if count > 1 else []
    return list(zip([0, *cuts], [*cuts, count], strict=True))


@settings(max_examples=12, deadline=None)
@given(cuts=st.sets(st.integers(1, LAYERS - 1), max_size=5), seed=st.integers(0, 99))
def test_chained_shards_are_the_whole_model(cuts, seed):
    tokens = tokens_of(seed, 9)
    bounds = [0, *sorted(cuts), LAYERS]
    state = jnp.asarray(tokens[None])
    for start, stop in itertools.pairwise(bounds):
        state = shard(LayerRange(start, stop))(state)
    np.testing.assert_allclose(np.asarray(state)[0], expected_logits(tokens), atol=1e-4)


@st.composite
def routes(draw):
    """A way through three overlapping stages with partial inference: where each hop hands over."""
    first = draw(st.integers(3, 7))
    return (LayerRange(0, first), LayerRange(first, second := draw(st.integers(9, 12))), LayerRange(second, LAYERS))


@st.composite
def requests(draw):
    count = draw(st.integers(1, LONGEST))
    return {
        "tokens": tokens_of(draw(st.integers(0, 99)), count),
        "chunks": chunks(draw, count),
        "route": draw(routes()),
    }


def run_stage(stage: int, one: Engine, ready: list[dict], sampling: SamplingParams) -> None:
    """One batch on one stage: the next chunk of every ready request."""
    steps = []
    for request in ready:
        start, stop = request["chunk"]
        layers = request["route"][stage]
        steps.append(
            Step(
                request["name"],
                layers,
                start,
                tokens=request["tokens"][start:stop] if stage == 0 else None,
                hidden=request["state"] if stage else None,
                sampling=sampling if layers.stop == LAYERS else None,
            )
        )
    for request, result in zip(ready, one.run(steps), strict=True):
        assert not result.kv_full
        request["state"], request["token"], request["logprobs"] = result.hidden, result.token, result.logprobs


@settings(max_examples=25, deadline=None)
@given(drawn=st.lists(requests(), min_size=1, max_size=6), pages_at_once=st.sampled_from((None, 3)))
def test_paged_stages_are_the_whole_model(drawn, pages_at_once):
    """Any chunks of prefill, any batch, any hand-over: the last token's likeliest tokens are the whole model's."""
    sampling = SamplingParams(logprobs=20)
    stages = [engine(held, pages_at_once=pages_at_once) for held in HELD]
    for number, request in enumerate(drawn):
        request.update(name=f"r{number}", state=None)
    try:
        while ready := [request for request in drawn if request["chunks"]]:
            for request in ready:
                request["chunk"] = request["chunks"].pop(0)
            for stage, one in enumerate(stages):
                run_stage(stage, one, ready, sampling)
        for request in drawn:
            check_logprobs(request, expected_logits(request["tokens"])[-1])
    finally:
        for one in stages:
            for request in drawn:
                one.release(request["name"])
    assert all(one.used_pages == 0 for one in stages)


def check_logprobs(request: dict, logits: np.ndarray) -> None:
    logprobs = logits - np.log(np.sum(np.exp(logits - logits.max()))) - logits.max()
    top = request["logprobs"].top
    np.testing.assert_allclose([value for _, value in top], logprobs[[number for number, _ in top]], atol=1e-4)
    np.testing.assert_allclose([value for _, value in top], np.sort(logprobs)[::-1][:20], atol=1e-4)
    assert logits[request["token"]] >= logits.max() - 1e-4


@settings(max_examples=6, deadline=None)
@given(layers_per_call=st.sampled_from((1, 3, 16)), seed=st.integers(0, 99), temperature=st.sampled_from((0.0, 0.8)))
def test_layers_per_call_changes_nothing(layers_per_call, seed, temperature):
    prompt, whole_range = tokens_of(seed, 11).tolist(), LayerRange(0, LAYERS)
    sampling = SamplingParams(temperature=temperature, seed=seed, top_p=0.95)
    tokens = [
        list(generate_in_process(engine(whole_range, count), prompt, 12, sampling)) for count in (4, layers_per_call)
    ]
    assert tokens[0] == tokens[1]
