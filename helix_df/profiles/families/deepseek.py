"""DeepSeek V2 and V3 (arXiv 2405.04434, 2412.19437): latent attention, and many experts beside one for all tokens.

The first layers are dense. V2 picks experts by a softmax and groups by their best; V3 by sigmoids with a correction for
each expert, and groups by their best two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from helix_df.profiles.families.family import PLAIN_NAMES, Config, Family, Gguf, Names
from helix_df.profiles.geometry import ExpertOptions, LatentOptions, ModelGeometry
from helix_df.profiles.rope_options import settings

_NAMES: Names = MappingProxyType(
    {
        **PLAIN_NAMES,
        "query": ("self_attn.q_proj.weight",),
        "query_down": ("self_attn.q_a_proj.weight",),
        "query_latent_norm": ("self_attn.q_a_layernorm.weight",),
        "query_up": ("self_attn.q_b_proj.weight",),
        "latent_down": ("self_attn.kv_a_proj_with_mqa.weight",),
        "latent_norm": ("self_attn.kv_a_layernorm.weight",),
        "latent_up": ("self_attn.kv_b_proj.weight",),
        "router_correction": ("mlp.gate.e_score_correction_bias",),
        "shared_gate_up": ("mlp.shared_experts.gate_proj.weight", "mlp.shared_experts.up_proj.weight"),
        "shared_down": ("mlp.shared_experts.down_proj.weight",),
    }
)
_HONOURED = frozenset(
    {
        "first_k_dense_replace",
        "kv_lora_rank",
        "moe_intermediate_size",
        "n_group",
        "n_routed_experts",
        "n_shared_experts",
        "norm_topk_prob",
        "num_experts_per_tok",
        "q_lora_rank",
        "qk_nope_head_dim",
        "qk_rope_head_dim",
        "routed_scaling_factor",
        "topk_group",
        "v_head_dim",
    }
)
_HARMLESS = frozenset(
    {"aux_loss_alpha", "ep_size", "num_nextn_predict_layers", "num_mtp_layers", "qk_head_dim", "seq_aux"}
)
_DEFAULTS = MappingProxyType(
    {
        "kv_lora_rank": 512,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
    }
)


def _shared(config: Config, geometry: ModelGeometry, experts: ExpertOptions) -> ModelGeometry:
    """What both have: latents, and ``experts`` as far as the two differ."""
    rotated = int(config["qk_rope_head_dim"])
    latent = LatentOptions(
        rank=int(config["kv_lora_rank"]),
        query_rank=int(config.get("q_lora_rank") or 0),
        rotated=rotated,
        values=int(config["v_head_dim"]),
        interleaved=bool(config.get("rope_interleave", True)),
    )
    head_dim = int(config["qk_nope_head_dim"]) + rotated
    inner = int(config["moe_intermediate_size"])
    experts = replace(
        experts,
        count=int(config["n_routed_experts"]),
        used=int(config["num_experts_per_tok"]),
        inner=inner,
        scale=float(config["routed_scaling_factor"]),
        shared=inner * int(config["n_shared_experts"]),
        dense=tuple(range(min(int(config["first_k_dense_replace"]), geometry.num_layers))),
    )
    return replace(
        geometry,
        head_dim=head_dim,
        attention=replace(geometry.attention, scale=head_dim**-0.5 * _grown(config) ** 2),
        latent=latent,
        rotary=replace(geometry.rotary, dims=rotated),
        experts=experts,
    )


def _grown(config: Config) -> float:
    """What queries and keys grow by where YaRN's ``mscale_all_dim`` says so, beside cosines and sines."""
    rope = settings(config)
    all_dim, factor = float(rope.get("mscale_all_dim") or 0.0), float(rope.get("factor") or 1.0)
    return 0.1 * all_dim * math.log(factor) + 1.0 if factor > 1 else 1.0


def _v2(config: Config, geometry: ModelGeometry) -> ModelGeometry:
    limited = config.get("topk_method") == "group_limited_greedy"
    experts = ExpertOptions(
        normalized=False,
        groups=int(config["n_group"]) if limited else 1,
        used_groups=int(config["topk_group"]) if limited else 1,
    )
    return _shared(config, geometry, experts)


def _v3(config: Config, geometry: ModelGeometry) -> ModelGeometry:
    experts = ExpertOptions(
        normalized=bool(config["norm_topk_prob"]),
        scoring="sigmoid",
        corrected=True,
        groups=int(config["n_group"]),
        used_groups=int(config["topk_group"]),
        by_two=True,
    )
    return _shared(config, geometry, experts)


_GGUF_WORDS = MappingProxyType(
    {
        "attention.key_length": "key_length",
        "attention.key_length_mla": "key_length_mla",
        "attention.kv_lora_rank": "kv_lora_rank",
        "attention.q_lora_rank": "q_lora_rank",
        "attention.value_length": "value_length",
        "attention.value_length_mla": "v_head_dim",
        "expert_count": "n_routed_experts",
        "expert_feed_forward_length": "moe_intermediate_size",
        "expert_group_count": "n_group",
        "expert_group_used_count": "topk_group",
        "expert_shared_count": "n_shared_experts",
        "expert_used_count": "num_experts_per_tok",
        "expert_weights_norm": "norm_topk_prob",
        "expert_weights_scale": "routed_scaling_factor",
        "leading_dense_block_count": "first_k_dense_replace",
        "rope.dimension_count": "qk_rope_head_dim",
        "rope.scaling.yarn_log_multiplier": "yarn_log_multiplier",
    }
)
_GGUF_NAMES = MappingProxyType(
    {
        "self_attn.q_a_proj": "attn_q_a",
        "self_attn.q_a_layernorm": "attn_q_a_norm",
        "self_attn.q_b_proj": "attn_q_b",
        "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
        "self_attn.kv_a_layernorm": "attn_kv_a_norm",
        "self_attn.kv_b_proj": "attn_kv_b",
        "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
        "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
        "mlp.shared_experts.up_proj": "ffn_up_shexp",
        "mlp.shared_experts.down_proj": "ffn_down_shexp",
    }
)
_OWN_WORDS = frozenset({"key_length", "key_length_mla", "value_length", "yarn_log_multiplier"})
_SOFTMAX, _SIGMOID = 1, 2
"""``ExpertGatingFuncType`` of the gguf package."""


def _restated(config: Config) -> Mapping[str, Any]:
    """Newer files take latents for the keys and values of one head, and say elsewhere what those of each are.

    Cosines and sines of all published ones don't grow: ``mscale`` is ``mscale_all_dim``, a tenth of which GGUF has. The
    number of groups of V2 was not in files at first; of its versions only the one with 160 experts has any.
    """
    kept = {key: value for key, value in config.items() if key not in _OWN_WORDS}
    head_dim = config.get("key_length_mla", config.get("key_length"))
    if head_dim is None:
        raise KeyError("attention.key_length")
    kept["qk_nope_head_dim"] = int(head_dim) - int(config["qk_rope_head_dim"])
    kept.setdefault("v_head_dim", config.get("value_length"))
    kept.setdefault("q_lora_rank", None)
    scaling = kept.get("rope_scaling")
    if scaling:
        grows = 10 * float(config.get("yarn_log_multiplier") or 0.0)
        plain = {key: value for key, value in scaling.items() if key != "attention_factor"}
        kept["rope_scaling"] = {**plain, **({"mscale": grows, "mscale_all_dim": grows} if grows else {})}
    return kept


def _restated_v2(config: Config) -> Mapping[str, Any]:
    groups = {"n_group": 8, "topk_group": 3} if config.get("n_routed_experts") == 160 else {}
    kept = {**groups, **_restated(config)}
    return {**kept, "topk_method": "group_limited_greedy" if int(kept.get("n_group") or 1) > 1 else "greedy"}


_ONLY: Mapping[str, tuple[Any, ...]] = MappingProxyType({"moe_layer_freq": (1,)})

DEEPSEEK_V2 = Family(
    name="deepseek_v2",
    architectures=("DeepseekV2ForCausalLM",),
    defaults=MappingProxyType(
        {
            **_DEFAULTS,
            "first_k_dense_replace": 0,
            "moe_intermediate_size": 1407,
            "n_routed_experts": 64,
            "n_shared_experts": 2,
            "routed_scaling_factor": 1.0,
        }
    ),
    honoured=_HONOURED - {"norm_topk_prob"},
    only=MappingProxyType(
        {
            **_ONLY,
            "norm_topk_prob": (False,),
            "rope_interleave": (True,),
            "scoring_func": ("softmax",),
            "topk_method": ("greedy", "group_limited_greedy"),
        }
    ),
    harmless=_HARMLESS,
    options=_v2,
    names=_NAMES,
    gguf=Gguf(
        "deepseek2",
        words=_GGUF_WORDS,
        only=MappingProxyType({"expert_gating_func": (0, _SOFTMAX)}),
        names=_GGUF_NAMES,
        restated=_restated_v2,
    ),
)
DEEPSEEK_V3 = Family(
    name="deepseek_v3",
    architectures=("DeepseekV3ForCausalLM",),
    defaults=MappingProxyType(
        {
            **_DEFAULTS,
            "first_k_dense_replace": 3,
            "max_position_embeddings": 4096,
            "moe_intermediate_size": 2048,
            "n_group": 8,
            "n_routed_experts": 256,
            "n_shared_experts": 1,
            "norm_topk_prob": True,
            "num_experts_per_tok": 8,
            "routed_scaling_factor": 2.5,
            "topk_group": 4,
        }
    ),
    honoured=_HONOURED | {"rope_interleave"},
    only=MappingProxyType({**_ONLY, "scoring_func": ("sigmoid",), "topk_method": ("noaux_tc",)}),
    harmless=_HARMLESS,
    options=_v3,
    names=_NAMES,
    predicts_ahead=True,
    gguf=Gguf(
        "deepseek2",
        words=_GGUF_WORDS,
        only=MappingProxyType({"expert_gating_func": (_SIGMOID,)}),
        names=_GGUF_NAMES,
        restated=_restated,
        when=lambda said: said.get("expert_gating_func") == _SIGMOID,
    ),
)
