"""OLMo 2 (arXiv 2501.00656): norms of what attention and MLP add instead of what they take, and of queries and keys."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from helix_df.profiles.families.family import PLAIN_NAMES, Config, Family, Gguf, with_biases
from helix_df.profiles.geometry import BlockOptions, ModelGeometry


def _options(config: Config, geometry: ModelGeometry) -> ModelGeometry:
    geometry = with_biases(config, geometry)
    attention = replace(geometry.attention, query_key_norm="projection")
    return replace(geometry, attention=attention, block=BlockOptions(norms="after"))


OLMO2 = Family(
    name="olmo2",
    architectures=("Olmo2ForCausalLM",),
    defaults=MappingProxyType({"rms_norm_eps": 1e-5}),
    honoured=frozenset({"attention_bias"}),
    options=_options,
    names=MappingProxyType(
        {
            **PLAIN_NAMES,
            "attention_post_norm": ("post_attention_layernorm.weight",),
            "mlp_post_norm": ("post_feedforward_layernorm.weight",),
        }
    ),
    gguf=Gguf(
        "olmo2",
        names=MappingProxyType(
            {"post_attention_layernorm": "post_attention_norm", "post_feedforward_layernorm": "post_ffw_norm"}
        ),
    ),
)
