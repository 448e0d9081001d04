"""What a mixture of experts takes in memory, and what a pass over it reads and computes."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helix_df.models.experts import BLOCK, ExpertWeights, mix_experts, route
from helix_df.profiles.geometry import ExpertOptions
from helix_df.profiles.read_geometry import catalogue
from helix_df.profiles.throughput import Requests, Roofline
from helix_df.profiles.timing import roofline_timing

MOE = catalogue()["qwen3-30b-a3b"]


def test_a_token_is_multiplied_with_a_tenth_of_the_parameters():
    ends = 2 * MOE.embedding_parameters + MOE.hidden_size
    assert round((MOE.num_layers * MOE.active_parameters + ends) / 1e9, 2) == 3.35  # published as 3.3 B


@pytest.mark.parametrize(("name", "total", "active"), [("gpt-oss-20b", 20.91, 3.61), ("gpt-oss-120b", 116.83, 5.13)])
def test_gpt_oss_has_the_parameters_of_its_model_card(name, total, active):
    """arXiv 2508.10925, table 1; active ones count the head and not the embedding."""
    geometry = catalogue()[name]
    ends = geometry.embedding_parameters + geometry.hidden_size
    layers = geometry.num_layers
    assert round((layers * geometry.layer_parameters + ends + geometry.embedding_parameters) / 1e9, 2) == total
    assert round((layers * geometry.active_parameters + ends) / 1e9, 2) == active


def test_more_tokens_read_more_experts_and_never_more_than_all():
    read = [MOE.read_parameters(2**power) for power in range(12)]
    assert read == sorted(read)
    assert read[0] == MOE.active_parameters
    assert 0.999 * MOE.layer_parameters < read[-1] <= MOE.layer_parameters
    dense = catalogue()["tiny"]
    assert {dense.read_parameters(tokens) for tokens in (1, 7, 900)} == {dense.layer_parameters}


def test_a_decode_step_of_one_request_reads_its_experts_and_its_context():
    requests = Requests(1000.0, 100.0, 16)
    timing = roofline_timing(MOE, 2, Roofline(1e15, 1e12), requests)
    cache = 1050 * MOE.kv_bytes_per_token_layer(2)
    assert np.isclose(timing.decode_s(1), (2 * MOE.active_parameters + cache) / 1e12)
    assert timing.decode_s(64) < 64 * timing.decode_s(1)


@settings(max_examples=40, deadline=None)
@given(
    tokens=st.sampled_from((1, BLOCK, 2 * BLOCK + 7)),  # few shapes, since each is compiled
    count=st.sampled_from((1, 4, 9)),
    used=st.sampled_from((1, 3)),
    favourite=st.booleans(),
    normalized=st.booleans(),
    seed=st.integers(0, 99),
)
def test_blocks_compute_what_each_token_through_its_experts_does(tokens, count, used, favourite, normalized, seed):
    chance = np.random.default_rng(seed)
    options = ExpertOptions(count, min(used, count), 6, normalized)
    hidden = chance.normal(size=(1, tokens, 8)).astype(np.float32)
    router = chance.normal(size=(count, 8)).astype(np.float32)
    if favourite:
        router[0] += 100 * np.sign(hidden[0, 0])  # most tokens want the same expert, or none does
    gate_up = chance.normal(size=(count, 12, 8)).astype(np.float32)
    down = chance.normal(size=(count, 8, 6)).astype(np.float32)

    mixed = mix_experts(
        jnp.asarray(hidden),
        route(jnp.asarray(hidden), jnp.asarray(router), options),
        ExpertWeights(jnp.asarray(gate_up), jnp.asarray(down)),
        "silu",
    )

    for row in range(tokens):
        logits = router @ hidden[0, row]
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        picked = np.argsort(-shares, kind="stable")[: options.used]
        total = shares[picked].sum() if normalized else 1.0
        expected = np.zeros(8)
        for expert in picked:
            gate, up = np.split(gate_up[expert] @ hidden[0, row], 2)
            expected += shares[expert] / total * (down[expert] @ (gate / (1 + np.exp(-gate)) * up))
        np.testing.assert_allclose(np.asarray(mixed)[0, row], expected, rtol=1e-3, atol=1e-3)
