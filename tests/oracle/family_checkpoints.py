"""Small checkpoints of every family in Hugging Face's format, made from a seed without torch, the same everywhere.

Whether names and shapes of the tensors are right, transformers says when the recordings are made: it must miss none,
and know all.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from helix_df.profiles.read_geometry import geometry_from_config
from helix_df.profiles.tensor_names import model_tensors
from tests.oracle.checkpoints import BASE, values
from tests.oracle.stacked_experts import is_matrix_of_expert, on_the_grid, stacked

LENGTHS = (1, 23, 150)
_SIZES: dict[str, Any] = {
    **{key: value for key, value in BASE.items() if key != "hidden_act"},
    "head_dim": 16,
    "pad_token_id": 258,
}
_YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64}


def _config(model_type: str, architecture: str, **options: Any) -> dict[str, Any]:
    return {**_SIZES, "model_type": model_type, "architectures": [architecture], **options}


def _llama(**options: Any) -> dict[str, Any]:
    return _config("llama", "LlamaForCausalLM", **options)


def _gemma(kind: str, architecture: str, **options: Any) -> dict[str, Any]:
    sizes = {"num_hidden_layers": 7, "num_attention_heads": 4, "sliding_window": 32, "query_pre_attn_scalar": 16}
    return _config(kind, architecture, **{**sizes, "tie_word_embeddings": True, **options})


def _phi(**options: Any) -> dict[str, Any]:
    return _config("phi3", "Phi3ForCausalLM", head_dim=None, num_attention_heads=3, num_key_value_heads=1, **options)


def _deepseek(kind: str, architecture: str, **options: Any) -> dict[str, Any]:
    attention = {"q_lora_rank": 24, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12}
    experts = {"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 40, "n_shared_experts": 1}
    groups = {"n_group": 4, "topk_group": 2}
    heads = {"head_dim": None, "num_key_value_heads": 6}
    return _config(kind, architecture, **{**heads, **attention, **experts, **groups, **options})


_LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0 + 0.01 * pair for pair in range(8)],
    "long_factor": [1.0 + 0.5 * pair for pair in range(8)],
}
_QWEN2 = ("qwen2", "Qwen2ForCausalLM")
FAMILY_CONFIGS: dict[str, dict[str, Any]] = {
    "llama-biases": _llama(attention_bias=True),
    "llama-dynamic": _llama(rope_scaling={"rope_type": "dynamic", "factor": 4.0}),
    "llama-yarn": _llama(rope_scaling={**_YARN, "mscale": 1.0, "mscale_all_dim": 0.5}),
    "mistral-window": _config("mistral", "MistralForCausalLM", sliding_window=32),
    "mistral": _config("mistral", "MistralForCausalLM", sliding_window=None),
    "qwen2": _config(*_QWEN2, head_dim=None, num_attention_heads=3, num_key_value_heads=1),
    "qwen2-window": _config(
        *_QWEN2,
        head_dim=None,
        num_attention_heads=3,
        num_key_value_heads=1,
        use_sliding_window=True,
        sliding_window=32,
        max_window_layers=2,
    ),
    "qwen2-yarn": _config(*_QWEN2, head_dim=None, num_attention_heads=3, num_key_value_heads=1, rope_scaling=_YARN),
    "qwen3": _config("qwen3", "Qwen3ForCausalLM", tie_word_embeddings=True),
    "gemma2": _gemma("gemma2", "Gemma2ForCausalLM"),
    "gemma2-scaled": _gemma("gemma2", "Gemma2ForCausalLM", query_pre_attn_scalar=20, final_logit_softcapping=None),
    "gemma3": _gemma("gemma3_text", "Gemma3ForCausalLM", rope_theta=1e6, rope_local_base_freq=1e4),
    "gemma3-linear": _gemma(
        "gemma3_text",
        "Gemma3ForCausalLM",
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
        },
        layer_types=["sliding_attention", "full_attention", *["sliding_attention"] * 4, "full_attention"],
    ),
    "phi3": _phi(sliding_window=40),
    "phi3-longrope": _phi(rope_scaling=_LONGROPE, original_max_position_embeddings=64),
    "phi3-partial": _phi(partial_rotary_factor=0.75),
    "granite": _config(
        "granite",
        "GraniteForCausalLM",
        head_dim=None,
        num_attention_heads=3,
        num_key_value_heads=1,
        attention_multiplier=0.2,
        embedding_multiplier=3.0,
        logits_scaling=1.5,
        residual_multiplier=0.6,
    ),
    "mixtral": _config(
        "mixtral", "MixtralForCausalLM", num_local_experts=6, num_experts_per_tok=2, intermediate_size=64
    ),
    "qwen3-moe": _config(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        num_experts=8,
        num_experts_per_tok=3,
        moe_intermediate_size=40,
        norm_topk_prob=True,
    ),
    "qwen3-moe-unscaled": _config(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        num_experts=8,
        num_experts_per_tok=3,
        moe_intermediate_size=40,
        norm_topk_prob=False,
    ),
    "qwen3-moe-dense": _config(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        num_experts=8,
        num_experts_per_tok=3,
        moe_intermediate_size=40,
        norm_topk_prob=True,
        mlp_only_layers=[0, 3],
    ),
    "qwen2-moe": _config(
        "qwen2_moe",
        "Qwen2MoeForCausalLM",
        head_dim=None,
        num_attention_heads=3,
        num_key_value_heads=1,
        num_experts=6,
        num_experts_per_tok=2,
        moe_intermediate_size=40,
        shared_expert_intermediate_size=56,
    ),
    "qwen2-moe-dense": _config(
        "qwen2_moe",
        "Qwen2MoeForCausalLM",
        head_dim=None,
        num_attention_heads=3,
        num_key_value_heads=1,
        num_experts=6,
        num_experts_per_tok=2,
        moe_intermediate_size=40,
        shared_expert_intermediate_size=56,
        norm_topk_prob=True,
        decoder_sparse_step=2,
    ),
    "deepseek-v2": _deepseek(
        "deepseek_v2",
        "DeepseekV2ForCausalLM",
        q_lora_rank=None,
        topk_method="greedy",
        first_k_dense_replace=1,
        rope_scaling={**_YARN, "mscale": 0.707, "mscale_all_dim": 0.707},
    ),
    "deepseek-v2-groups": _deepseek(
        "deepseek_v2",
        "DeepseekV2ForCausalLM",
        topk_method="group_limited_greedy",
        n_shared_experts=2,
        routed_scaling_factor=4.0,
    ),
    "deepseek-v3": _deepseek(
        "deepseek_v3",
        "DeepseekV3ForCausalLM",
        first_k_dense_replace=2,
        rope_scaling={**_YARN, "mscale": 1.0, "mscale_all_dim": 0.5},
    ),
    "deepseek-v3-gguf": _deepseek(
        "deepseek_v3",
        "DeepseekV3ForCausalLM",
        routed_scaling_factor=2.5,
        first_k_dense_replace=1,
        rope_scaling={**_YARN, "mscale": 0.5, "mscale_all_dim": 0.5},
    ),
    "deepseek-v3-halves": _deepseek(
        "deepseek_v3",
        "DeepseekV3ForCausalLM",
        num_attention_heads=4,
        num_key_value_heads=4,
        first_k_dense_replace=0,
        norm_topk_prob=False,
        rope_interleave=False,
        routed_scaling_factor=1.0,
    ),
    "gpt-oss": _config(
        "gpt_oss",
        "GptOssForCausalLM",
        attention_bias=True,
        hidden_size=64,
        intermediate_size=96,
        num_local_experts=6,
        num_experts_per_tok=3,
        rope_scaling={**_YARN, "truncate": False},
        sliding_window=32,
    ),
    "olmo2": _config("olmo2", "Olmo2ForCausalLM", head_dim=None, num_attention_heads=3, num_key_value_heads=1),
    "smollm3": _config("smollm3", "SmolLM3ForCausalLM", head_dim=None, num_attention_heads=3, num_key_value_heads=1),
    "smollm3-yarn": _config(
        "smollm3", "SmolLM3ForCausalLM", head_dim=None, num_attention_heads=3, num_key_value_heads=1, rope_scaling=_YARN
    ),
}
"""By name; dimensions are odd enough that a wrong one shows, and windows shorter than the longest prompt."""

ONLY_LONG = frozenset({"phi3-longrope"})
"""transformers takes other frequencies for what is short, although keys of before stay: helix-df asks the context."""


def written_config(name: str) -> dict[str, Any]:
    """``config.json`` of ``FAMILY_CONFIGS[name]``."""
    said = ("sliding_window", "q_lora_rank")  # null means something there
    return {key: value for key, value in FAMILY_CONFIGS[name].items() if value is not None or key in said}


def family_tensors(name: str) -> dict[str, np.ndarray]:
    """Weights of ``FAMILY_CONFIGS[name]``, those of each expert by a name of their own."""
    shapes = model_tensors(geometry_from_config(written_config(name), name))
    tensors = {key: values(f"{name}:{key}", shape) for key, shape in shapes.items()}
    if "gemma" in name:
        tensors |= {key: array - 1 for key, array in tensors.items() if key.endswith("norm.weight")}
    if "gpt-oss" in name:  # twice as large, so that clamping matters
        tensors |= {key: on_the_grid(2 * array) for key, array in tensors.items() if is_matrix_of_expert(key)}
    return tensors


def write_family(folder: Path, name: str, *, mxfp4: bool = False) -> Path:
    """Write ``FAMILY_CONFIGS[name]`` with its weights to ``folder / name`` and return that directory.

    With ``mxfp4`` as gpt-oss is published: experts in four bits.
    """
    config, path, tensors = written_config(name), folder / name, family_tensors(name)
    path.mkdir(parents=True, exist_ok=True)
    if mxfp4:
        config["quantization_config"] = {
            "quant_method": "mxfp4",
            "modules_to_not_convert": ["lm_head"],
        }
    (path / "config.json").write_text(json.dumps(config))
    stored = stacked(tensors, mxfp4=mxfp4) if "gpt-oss" in name else tensors
    save_file(stored, path / "model.safetensors", metadata={"format": "pt"})
    return path


def lengths_of(name: str) -> tuple[int, ...]:
    """Of the prompts that are recorded."""
    return tuple(length for length in LENGTHS if length > 64 or name not in ONLY_LONG)
