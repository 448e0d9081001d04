"""SmolLM3: a Llama in which every fourth layer has no rotary positions (RoPE to NoPE and back, arXiv 2501.18795)."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from helix_df.profiles.families.family import Config, Family, Gguf, with_biases, with_windows
from helix_df.profiles.geometry import ModelGeometry


def _options(config: Config, geometry: ModelGeometry) -> ModelGeometry:
    geometry = with_biases(config, geometry)
    rotates = config.get("no_rope_layers") or [
        int((layer + 1) % int(config["no_rope_layer_interval"]) != 0) for layer in range(geometry.num_layers)
    ]
    still = tuple(layer for layer, rotated in enumerate(rotates) if not rotated)
    geometry = replace(geometry, rotary=replace(geometry.rotary, unrotated=still))
    if not config.get("use_sliding_window"):
        return geometry
    kinds = ["full_attention" if rotated else "sliding_attention" for rotated in rotates]
    return with_windows({**config, "layer_types": config.get("layer_types") or kinds}, geometry)


SMOLLM3 = Family(
    name="smollm3",
    architectures=("SmolLM3ForCausalLM",),
    defaults=MappingProxyType(
        {
            "max_position_embeddings": 32768,
            "no_rope_layer_interval": 4,
            "num_key_value_heads": 4,
            "rope_theta": 2e6,
            "tie_word_embeddings": True,
        }
    ),
    honoured=frozenset(
        {
            "attention_bias",
            "layer_types",
            "no_rope_layer_interval",
            "no_rope_layers",
            "sliding_window",
            "use_sliding_window",
        }
    ),
    only=MappingProxyType({"mlp_bias": (False,)}),
    options=_options,
    gguf=Gguf("smollm3", interleaved=True),
)
