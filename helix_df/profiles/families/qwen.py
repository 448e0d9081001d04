"""Qwen 2 and 2.5 (arXiv 2407.10671, 2412.15115), and Qwen 3 (arXiv 2505.09388), dense and with experts.

Qwen 2 has biases on queries, keys and values; Qwen 3 norms each head of queries and keys instead. All tokens pass one
expert of a Qwen 2 beside those that are picked, weighed by a gate of its own.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from helix_df.profiles.families.family import PLAIN_NAMES, Config, Family, Gguf, has_experts, with_biases, with_windows
from helix_df.profiles.geometry import ExpertOptions, ModelGeometry

_WINDOWS = frozenset({"use_sliding_window", "sliding_window", "max_window_layers", "layer_types"})
_DEFAULTS = MappingProxyType(
    {
        "max_position_embeddings": 32768,
        "max_window_layers": 28,
        "num_key_value_heads": 32,
        "sliding_window": 4096,
        "use_sliding_window": False,
    }
)


def _windows(config: Config, geometry: ModelGeometry) -> ModelGeometry:
    """The first ``max_window_layers`` layers see everything, those above a window, if one is used at all."""
    if not config.get("use_sliding_window"):
        return geometry
    whole = int(config["max_window_layers"])
    kinds = ["full_attention" if layer < whole else "sliding_attention" for layer in range(geometry.num_layers)]
    return with_windows({"layer_types": kinds, **_said(config)}, geometry)


def _said(config: Config) -> dict[str, object]:
    return {key: value for key, value in config.items() if value is not None}


def _qwen2(config: Config, geometry: ModelGeometry) -> ModelGeometry:
    geometry = _windows(config, geometry)
    return replace(geometry, attention=replace(geometry.attention, bias=True))


def _qwen3(config: Config, geometry: ModelGeometry) -> ModelGeometry:
    geometry = with_biases(config, _windows(config, geometry))
    return replace(geometry, attention=replace(geometry.attention, query_key_norm="head"))


def _experts(config: Config, geometry: ModelGeometry) -> ExpertOptions:
    step, dense = int(config["decoder_sparse_step"]), frozenset(config.get("mlp_only_layers") or ())
    return ExpertOptions(
        count=int(config["num_experts"]),
        used=int(config["num_experts_per_tok"]),
        inner=int(config["moe_intermediate_size"]),
        normalized=bool(config["norm_topk_prob"]),
        dense=tuple(layer for layer in range(geometry.num_layers) if layer in dense or (layer + 1) % step),
    )


def _qwen3_moe(config: Config, geometry: ModelGeometry) -> ModelGeometry:
    return replace(_qwen3(config, geometry), experts=_experts(config, geometry))


def _qwen2_moe(config: Config, geometry: ModelGeometry) -> ModelGeometry:
    shared = int(config["shared_expert_intermediate_size"])
    experts = replace(_experts(config, geometry), shared=shared, shared_gate=True)
    biased = replace(geometry.attention, bias=bool(config["qkv_bias"]))
    return replace(geometry, attention=biased, experts=experts)


QWEN2 = Family(
    name="qwen2",
    architectures=("Qwen2ForCausalLM",),
    defaults=_DEFAULTS,
    honoured=_WINDOWS,
    options=_qwen2,
    gguf=Gguf("qwen2"),
)
QWEN3 = Family(
    name="qwen3",
    architectures=("Qwen3ForCausalLM",),
    defaults=MappingProxyType({**_DEFAULTS, "head_dim": 128}),
    honoured=_WINDOWS | {"attention_bias"},
    options=_qwen3,
    gguf=Gguf("qwen3"),
)
_EXPERTS = frozenset(
    {
        "decoder_sparse_step",
        "mlp_only_layers",
        "moe_intermediate_size",
        "norm_topk_prob",
        "num_experts",
        "num_experts_per_tok",
    }
)
_GGUF_EXPERTS = MappingProxyType(
    {
        "expert_count": "num_experts",
        "expert_feed_forward_length": "moe_intermediate_size",
        "expert_used_count": "num_experts_per_tok",
    }
)
QWEN2_MOE = Family(
    name="qwen2_moe",
    architectures=("Qwen2MoeForCausalLM",),
    defaults=MappingProxyType(
        {
            **_DEFAULTS,
            "decoder_sparse_step": 1,
            "moe_intermediate_size": 1408,
            "norm_topk_prob": False,
            "num_experts": 60,
            "num_experts_per_tok": 4,
            "num_key_value_heads": 16,
            "qkv_bias": True,
            "shared_expert_intermediate_size": 5632,
        }
    ),
    honoured=_EXPERTS | {"qkv_bias", "shared_expert_intermediate_size"},
    options=_qwen2_moe,
    names=MappingProxyType(
        {
            **PLAIN_NAMES,
            "shared_gate_up": ("mlp.shared_expert.gate_proj.weight", "mlp.shared_expert.up_proj.weight"),
            "shared_down": ("mlp.shared_expert.down_proj.weight",),
            "shared_gate": ("mlp.shared_expert_gate.weight",),
        }
    ),
    gguf=Gguf(
        "qwen2moe",
        words=MappingProxyType(
            {**_GGUF_EXPERTS, "expert_shared_feed_forward_length": "shared_expert_intermediate_size"}
        ),
        names=MappingProxyType(
            {
                "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
                "mlp.shared_expert.up_proj": "ffn_up_shexp",
                "mlp.shared_expert.down_proj": "ffn_down_shexp",
                "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
            }
        ),
        when=has_experts,
    ),
)
QWEN3_MOE = Family(
    name="qwen3_moe",
    architectures=("Qwen3MoeForCausalLM",),
    defaults=MappingProxyType(
        {
            **_DEFAULTS,
            "decoder_sparse_step": 1,
            "moe_intermediate_size": 768,
            "norm_topk_prob": False,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "num_key_value_heads": 4,
        }
    ),
    honoured=_WINDOWS | _EXPERTS | {"attention_bias"},
    options=_qwen3_moe,
    gguf=Gguf(
        "qwen3moe",
        words=_GGUF_EXPERTS,
        means=MappingProxyType({"norm_topk_prob": True}),
        when=has_experts,
    ),
)
