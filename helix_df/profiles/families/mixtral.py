"""Mixtral (arXiv 2401.04088): a Mistral with a mixture of experts in every layer."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from helix_df.profiles.families.family import PLAIN_NAMES, Config, Family, Gguf, has_experts, with_windows
from helix_df.profiles.geometry import ExpertOptions, ModelGeometry


def _options(config: Config, geometry: ModelGeometry) -> ModelGeometry:
    experts = ExpertOptions(
        count=int(config["num_local_experts"]),
        used=int(config["num_experts_per_tok"]),
        inner=geometry.intermediate_size,
    )
    return replace(with_windows(config, geometry), experts=experts)


MIXTRAL = Family(
    name="mixtral",
    architectures=("MixtralForCausalLM",),
    defaults=MappingProxyType(
        {
            "max_position_embeddings": 131072,
            "num_experts_per_tok": 2,
            "num_key_value_heads": 8,
            "num_local_experts": 8,
            "rms_norm_eps": 1e-5,
        }
    ),
    honoured=frozenset({"num_experts_per_tok", "num_local_experts", "sliding_window"}),
    only=MappingProxyType({"attention_bias": (False,)}),
    options=_options,
    gguf=Gguf(
        "llama",
        words=MappingProxyType({"expert_count": "num_local_experts", "expert_used_count": "num_experts_per_tok"}),
        names=MappingProxyType(
            {
                "block_sparse_moe.gate": "ffn_gate_inp",
                "block_sparse_moe.experts.{}.w1": "ffn_gate_exps",
                "block_sparse_moe.experts.{}.w3": "ffn_up_exps",
                "block_sparse_moe.experts.{}.w2": "ffn_down_exps",
            }
        ),
        interleaved=True,
        when=has_experts,
    ),
    names=MappingProxyType(
        {
            **PLAIN_NAMES,
            "router": ("block_sparse_moe.gate.weight",),
            "expert_gate_up": ("block_sparse_moe.experts.{}.w1.weight", "block_sparse_moe.experts.{}.w3.weight"),
            "expert_down": ("block_sparse_moe.experts.{}.w2.weight",),
        }
    ),
)
