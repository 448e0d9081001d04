"""gpt-oss (arXiv 2508.10925): a mixture of experts whose heads may look at nothing, with a window in every other layer.

Each head has a sink, a score of its own that takes its share of attention; all projections and the router have biases;
experts gate by a clamped swish. Checkpoints stack the experts of a layer, gate and up in turns, mostly in MXFP4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from helix_df.profiles.families.family import (
    PLAIN_NAMES,
    Config,
    ExpertRows,
    Family,
    Gguf,
    has_experts,
    with_biases,
    with_windows,
)
from helix_df.profiles.geometry import BlockOptions, ExpertOptions, ModelGeometry


def _options(config: Config, geometry: ModelGeometry) -> ModelGeometry:
    if not (config.get("rope_scaling") or config.get("rope_parameters")):
        raise KeyError("rope_scaling")  # of all published ones; transformers would take that of the largest
    kinds = config.get("layer_types") or [
        "full_attention" if layer % 2 else "sliding_attention" for layer in range(geometry.num_layers)
    ]
    geometry = with_biases(config, with_windows({**config, "layer_types": kinds}, geometry))
    experts = ExpertOptions(
        count=int(config["num_local_experts"]),
        used=int(config["num_experts_per_tok"]),
        inner=geometry.intermediate_size,
        # A softmax of the scores of those that are used is that of all, normalized.
        normalized=True,
        bias=True,
    )
    return replace(
        geometry,
        attention=replace(geometry.attention, sinks=True),
        block=BlockOptions(activation="clamped_swish"),
        experts=experts,
    )


def _restated(config: Config) -> Mapping[str, Any]:
    """GGUF doesn't say that the ends of YaRN's ramp are no whole dimensions, as the published configs do."""
    experts = config.get("moe_intermediate_size", config["intermediate_size"])
    scaling = {**config.get("rope_scaling", {}), "truncate": False}
    kept = {key: value for key, value in config.items() if key != "moe_intermediate_size"}
    return {**kept, "intermediate_size": experts, "rope_scaling": scaling}


GPT_OSS = Family(
    name="gpt_oss",
    architectures=("GptOssForCausalLM",),
    defaults=MappingProxyType(
        {
            "attention_bias": True,
            "head_dim": 64,
            "max_position_embeddings": 131072,
            "num_experts_per_tok": 4,
            "num_key_value_heads": 8,
            "num_local_experts": 128,
            "rms_norm_eps": 1e-5,
            "rope_theta": 150000.0,
            "sliding_window": 128,
        }
    ),
    honoured=frozenset({"attention_bias", "layer_types", "num_experts_per_tok", "num_local_experts", "sliding_window"}),
    only=MappingProxyType({"swiglu_alpha": (1.702,), "swiglu_limit": (7.0,)}),
    harmless=frozenset({"experts_per_token", "initial_context_length"}),
    options=_options,
    names=MappingProxyType({**PLAIN_NAMES, "router": ("mlp.router.weight",), "router_bias": ("mlp.router.bias",)}),
    stacked=MappingProxyType(
        {
            "mlp.experts.{}.gate_proj.weight": ExpertRows("mlp.experts.gate_up_proj", 0, 2),
            "mlp.experts.{}.up_proj.weight": ExpertRows("mlp.experts.gate_up_proj", 1, 2),
            "mlp.experts.{}.gate_proj.bias": ExpertRows("mlp.experts.gate_up_proj_bias", 0, 2),
            "mlp.experts.{}.up_proj.bias": ExpertRows("mlp.experts.gate_up_proj_bias", 1, 2),
            "mlp.experts.{}.down_proj.weight": ExpertRows("mlp.experts.down_proj"),
            "mlp.experts.{}.down_proj.bias": ExpertRows("mlp.experts.down_proj_bias"),
        }
    ),
    quantized=frozenset({"mxfp4"}),
    gguf=Gguf(
        "gpt-oss",
        words=MappingProxyType(
            {
                "attention.sliding_window": "sliding_window",
                "expert_count": "num_local_experts",
                "expert_feed_forward_length": "moe_intermediate_size",
                "expert_used_count": "num_experts_per_tok",
            }
        ),
        names=MappingProxyType({"mlp.router": "ffn_gate_inp", "post_attention_layernorm": "post_attention_norm"}),
        restated=_restated,
        when=has_experts,
    ),
)
