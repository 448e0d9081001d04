"""Mixtures of experts of any sizes whose weights are rounded: any layers hold the bytes that are planned."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from typing import Any

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from helix_df.layers import LayerRange
from helix_df.models.weights import load_shard
from helix_df.plan.moves import load_bytes
from helix_df.profiles.read_geometry import read_geometry
from helix_df.profiles.tensor_names import EMBEDDING, HEAD, model_tensors
from helix_df.profiles.weight_bytes import KeptWeights, weight_bytes
from helix_df.spec.source import ModelSource

BLOCK_BYTES: dict[KeptWeights, int] = {"int8": 512 + 32, "int4": 256 + 64}
"""Of 16 x 32 numbers: their levels, and a float16 or two for each output."""

TOGETHER = re.compile(r"(.+)\.(?:[qkv]|gate|up)_proj\.weight")
"""Matrices of one module that lie one below the other."""

NEVER = ("mlp.gate.weight", "mlp.router.weight", "shared_expert_gate.weight", "kv_b_proj.weight")


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """``config.json`` of a small model of one of the families."""
    layers, heads = draw(st.integers(1, 4)), draw(st.sampled_from((2, 4)))
    plain = {
        "hidden_size": draw(st.integers(1, 6)) * 16,
        "intermediate_size": draw(st.integers(3, 50)) * 2,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 2,
        "vocab_size": draw(st.sampled_from((32, 50, 64))),
        "max_position_embeddings": 128,
        "rope_theta": 1e4,
        "tie_word_embeddings": draw(st.booleans()),
    }
    inner, experts = draw(st.integers(3, 40)) * 2, draw(st.integers(2, 4))
    mixed = {"num_experts": experts, "num_experts_per_tok": 2, "moe_intermediate_size": inner}
    of_dense = {"mlp_only_layers": draw(st.lists(st.integers(0, layers - 1), unique=True)), "norm_topk_prob": True}
    shared = {"shared_expert_intermediate_size": draw(st.integers(3, 40)) * 2}
    latent = {
        "num_key_value_heads": heads,
        "head_dim": None,
        "q_lora_rank": draw(st.sampled_from((None, 16, 40))),
        "kv_lora_rank": draw(st.sampled_from((16, 24))),
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": draw(st.sampled_from((8, 12))),
        "n_routed_experts": experts,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": inner,
        "n_shared_experts": draw(st.integers(1, 2)),
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": draw(st.integers(0, layers)),
    }
    yarn = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64, "truncate": False}
    each: tuple[dict[str, Any], ...] = (
        {**plain, **mixed, **of_dense, "model_type": "qwen3_moe", "head_dim": 8},
        {**plain, **mixed, **of_dense, **shared, "model_type": "qwen2_moe"},
        {**plain, **latent, "model_type": "deepseek_v2", "topk_method": "greedy"},
        {**plain, **latent, "model_type": "deepseek_v3"},
        {
            **plain,
            "model_type": "gpt_oss",
            "head_dim": 8,
            "num_local_experts": experts,
            "num_experts_per_tok": 2,
            "rope_scaling": yarn,
            "sliding_window": 16,
        },
    )
    return draw(st.sampled_from(each))


def counted(shapes: dict[str, tuple[int, ...]], kept: KeptWeights) -> float:
    """Bytes of tensors by name, a float32 for each number that isn't packed."""
    groups: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    for name, shape in shapes.items():
        match = TOGETHER.fullmatch(name)
        groups[name if match is None else f"{match[1]}.{shape[-1]}"].append(shape)
    total = 0.0
    for name, matrices in groups.items():
        outputs, inputs = sum(shape[0] for shape in matrices), matrices[0][-1]
        packs = len(matrices[0]) == 2 and not name.endswith(NEVER) and outputs % 16 == 0
        numbers = 4 * sum(map(math.prod, matrices))
        total += outputs // 16 * math.ceil(inputs / 32) * BLOCK_BYTES[kept] if packs else numbers
    return total


@settings(max_examples=25)
@given(data=st.data(), config=configs(), kept=st.sampled_from(("int8", "int4")))
def test_any_layers_hold_the_bytes_that_are_planned_and_the_arrays_of_the_whole(tmp_path_factory, data, config, kept):
    path = tmp_path_factory.mktemp("mixture") / "config.json"
    path.write_text(json.dumps(config))
    source = ModelSource("random", str(path))
    geometry = read_geometry(source)
    start = data.draw(st.integers(0, geometry.num_layers - 1))
    layers = LayerRange(start, data.draw(st.integers(start + 1, geometry.num_layers)))
    shard, planned = load_shard(source, geometry, layers, kept=kept), weight_bytes(source, geometry, 4, kept)
    shapes = model_tensors(geometry, layers)
    ends = {name: shape for name, shape in shapes.items() if not name.startswith("model.layers")}
    inside = {name: shape for name, shape in shapes.items() if name not in ends}
    assert planned.of(geometry, layers) == counted(inside, kept)
    of_vocabulary = [counted({name: ends[name]}, kept) for name in (EMBEDDING, HEAD) if name in ends]
    assert of_vocabulary == [planned.vocabulary] * len(of_vocabulary)
    kinds = 4 * len(layers) * ("gpt_oss" in geometry.family)  # each layer's window
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(shard))
    assert held == counted(shapes, kept) + kinds
    assert load_bytes(None, layers, geometry, 4, planned) == held - kinds
    whole = load_shard(source, geometry, kept=kept)
    for own, same in zip(
        shard.blocks, [whole.blocks[layer] for layer in range(layers.start, layers.stop)], strict=True
    ):
        for one, other in zip(jax.tree.leaves(own), jax.tree.leaves(same), strict=True):
            np.testing.assert_array_equal(one, other)
