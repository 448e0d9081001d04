"""Qwen 2 and 2.5 (arXiv 2407.10671, 2412.15115), and Qwen 3 (arXiv 2505.09388), dense and with experts.

Qwen 2 has biases on queries, keys and values; Qwen 3 norms each head of queries and keys instead.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from helix_df.profiles.families.family import Config, Family, Gguf, with_biases, with_windows
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


def _qwen3_moe(config: Config, geometry: ModelGeometry) -> ModelGeometry:
    experts = ExpertOptions(
        count=int(config["num_experts"]),
        used=int(config["num_experts_per_tok"]),
        inner=int(config["moe_intermediate_size"]),
        normalized=bool(config["norm_topk_prob"]),
    )
    return replace(_qwen3(config, geometry), experts=experts)


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
QWEN3_MOE = Family(
    name="qwen3_moe",
    architectures=("Qwen3MoeForCausalLM",),
    defaults=MappingProxyType(
        {
            **_DEFAULTS,
            "moe_intermediate_size": 768,
            "norm_topk_prob": False,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "num_key_value_heads": 4,
        }
    ),
    honoured=_WINDOWS
    | {"attention_bias", "moe_intermediate_size", "norm_topk_prob", "num_experts", "num_experts_per_tok"},
    # Layers without experts among those with: each layer would need memory and time of its own.
    only=MappingProxyType({"decoder_sparse_step": (1,), "mlp_only_layers": ([],)}),
    options=_qwen3_moe,
    gguf=Gguf(
        "qwen3moe",
        words=MappingProxyType(
            {
                "expert_count": "num_experts",
                "expert_feed_forward_length": "moe_intermediate_size",
                "expert_used_count": "num_experts_per_tok",
            }
        ),
        means=MappingProxyType({"norm_topk_prob": True}),
        of_experts=True,
    ),
)
