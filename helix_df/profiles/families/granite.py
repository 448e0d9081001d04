"""Granite 3 (dense): a Llama with scales on embeddings, scores, residuals and logits."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from helix_df.profiles.families.family import Config, Family, Gguf, with_biases
from helix_df.profiles.geometry import BlockOptions, EndOptions, ModelGeometry


def _scales(config: Config, geometry: ModelGeometry) -> ModelGeometry:
    geometry = with_biases(config, geometry)
    return replace(
        geometry,
        attention=replace(geometry.attention, scale=float(config["attention_multiplier"])),
        block=BlockOptions(residual_scale=float(config["residual_multiplier"])),
        ends=EndOptions(
            embedding_scale=float(config["embedding_multiplier"]), logits_divisor=float(config["logits_scaling"])
        ),
    )


GRANITE = Family(
    name="granite",
    architectures=("GraniteForCausalLM",),
    defaults=MappingProxyType(
        {
            "attention_multiplier": 1.0,
            "embedding_multiplier": 1.0,
            "logits_scaling": 1.0,
            "residual_multiplier": 1.0,
        }
    ),
    honoured=frozenset(
        {
            "attention_bias",
            "attention_multiplier",
            "embedding_multiplier",
            "logits_scaling",
            "residual_multiplier",
        }
    ),
    only=MappingProxyType({"mlp_bias": (False,)}),
    options=_scales,
    gguf=Gguf(
        "granite",
        words=MappingProxyType(
            {
                "attention.scale": "attention_multiplier",
                "embedding_scale": "embedding_multiplier",
                "logit_scale": "logits_scaling",
                "residual_scale": "residual_multiplier",
            }
        ),
        interleaved=True,
    ),
)
