"""What tells one model family from another, as data: options, names of tensors, and how GGUF puts the same.

Owns the form of such a description and what most families share. Doesn't know files, numbers of a particular model, or
what is computed. A family is one file beside this one, or an entry point ``helix_df.families`` of another package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from helix_df.profiles.geometry import ModelGeometry

Config = Mapping[str, Any]
Names = Mapping[str, tuple[str, ...]]

PLAIN_NAMES: Names = MappingProxyType(
    {
        "attention_norm": ("input_layernorm.weight",),
        "qkv": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
        "qkv_bias": ("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"),
        "query_norm": ("self_attn.q_norm.weight",),
        "key_norm": ("self_attn.k_norm.weight",),
        "output": ("self_attn.o_proj.weight",),
        "output_bias": ("self_attn.o_proj.bias",),
        "mlp_norm": ("post_attention_layernorm.weight",),
        "gate_up": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
        "down": ("mlp.down_proj.weight",),
        "sinks": ("self_attn.sinks",),
        "router": ("mlp.gate.weight",),
        "router_bias": ("mlp.gate.bias",),
        "expert_gate_up": ("mlp.experts.{}.gate_proj.weight", "mlp.experts.{}.up_proj.weight"),
        "expert_gate_up_bias": ("mlp.experts.{}.gate_proj.bias", "mlp.experts.{}.up_proj.bias"),
        "expert_down": ("mlp.experts.{}.down_proj.weight",),
        "expert_down_bias": ("mlp.experts.{}.down_proj.bias",),
    }
)
"""Tensors of a layer by part (``geometry.layer_parts``), in order; one name for several shapes is a tensor of all.

A name with braces stands for a tensor of each expert."""

PLAIN_GGUF_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.qkv_proj": "attn_qkv",
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
        "self_attn.o_proj": "attn_output",
        "self_attn.sinks": "attn_sinks.weight",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.gate_up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "mlp.gate": "ffn_gate_inp",
        "mlp.experts.{}.gate_proj": "ffn_gate_exps",
        "mlp.experts.{}.up_proj": "ffn_up_exps",
        "mlp.experts.{}.down_proj": "ffn_down_exps",
    }
)
"""GGUF's names in a layer for Hugging Face's, without ``.weight`` and ``.bias`` where both have it."""

PLAIN_GGUF_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "block_count": "num_hidden_layers",
        "context_length": "max_position_embeddings",
        "embedding_length": "hidden_size",
        "feed_forward_length": "intermediate_size",
        "attention.head_count": "num_attention_heads",
        "attention.head_count_kv": "num_key_value_heads",
        "attention.layer_norm_rms_epsilon": "rms_norm_eps",
        "rope.freq_base": "rope_theta",
    }
)
"""Keys of a GGUF file, after the architecture's name, that are options in Hugging Face's words."""


@dataclass(frozen=True, slots=True)
class Gguf:
    """How GGUF stores a family (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, llama.cpp's converter).

    Attributes:
        architecture: ``general.architecture``, which keys begin with.
        words: keys that are options in Hugging Face's words, beside the plain ones.
        only: keys that change the computation, and the values by which they don't.
        names: as ``PLAIN_GGUF_NAMES``, where they differ.
        interleaved: whether the rotated pairs of queries and keys lie side by side.
        means: what a file of this architecture means without saying so, in Hugging Face's words.
        restated: the options, changed where GGUF says something else by the same words.
        when: whether a file of that architecture is this family's, by its keys; ``None`` for the family of all others.
    """

    architecture: str
    words: Mapping[str, str] = field(default_factory=dict)
    only: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    interleaved: bool = False
    means: Mapping[str, Any] = field(default_factory=dict)
    restated: Callable[[Config], Config] = dict
    when: Callable[[Config], bool] | None = None


def has_experts(said: Config) -> bool:
    """Whether a GGUF file's keys say that it has experts."""
    return bool(said.get("expert_count"))


@dataclass(frozen=True, slots=True)
class ExpertRows:
    """Where a safetensors checkpoint that stacks experts holds a tensor that is each expert's.

    A matrix is stored as [experts, in, out], other than elsewhere, or in MXFP4 (``profiles.stacked_experts``).

    Attributes:
        name: of the stored tensor within a layer.
        first, step: which of its outputs these are, as those of gate and up take turns.
    """

    name: str
    first: int = 0
    step: int = 1


@dataclass(frozen=True, slots=True)
class Family:
    """One model family.

    Attributes:
        name: ``model_type`` in ``config.json``.
        architectures: values of ``architectures`` that are this family.
        defaults: what a config means that doesn't say, as transformers has it.
        honoured: keys that ``options`` reads.
        only: keys that change the computation and aren't honoured, with the values by which they don't.
        harmless: keys that say again what others do, or how the model was trained.
        quantized: methods of quantization of safetensors that are read (``quant_method``).
        options: completes a geometry by what the config says beyond its dimensions.
        names: of the tensors in a layer.
        stacked: where safetensors hold tensors of experts, by their names in ``names``, if not each by that name.
        predicts_ahead: whether checkpoints may hold further layers, which guess tokens ahead; nobody reads these.
        norm_offset: added to the weights of norms, but for those of GGUF files, where it is in them.
        gguf: how GGUF stores it; ``None`` where it doesn't.
        builder: ``module:function`` that builds a shard, where the shared decoder can't.
    """

    name: str
    architectures: tuple[str, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    honoured: frozenset[str] = frozenset()
    only: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    harmless: frozenset[str] = frozenset()
    quantized: frozenset[str] = frozenset()
    options: Callable[[Config, ModelGeometry], ModelGeometry] = field(default=lambda _config, geometry: geometry)
    names: Names = field(default_factory=lambda: PLAIN_NAMES)
    stacked: Mapping[str, ExpertRows] = field(default_factory=dict)
    predicts_ahead: bool = False
    norm_offset: float = 0.0
    gguf: Gguf | None = None
    builder: str | None = None


def with_biases(config: Config, geometry: ModelGeometry) -> ModelGeometry:
    """Biases of all four projections of attention, where ``attention_bias`` says so."""
    biased = bool(config.get("attention_bias"))
    return replace(geometry, attention=replace(geometry.attention, bias=biased, output_bias=biased))


def with_windows(config: Config, geometry: ModelGeometry) -> ModelGeometry:
    """Sliding windows: of layers that ``layer_types`` calls ``sliding_attention``, of all where it says nothing.

    A window that no context reaches is none.
    """
    window = int(config.get("sliding_window") or 0)
    if not 0 < window < geometry.context_length:
        return geometry
    kinds = config.get("layer_types") or ["sliding_attention"] * geometry.num_layers
    windows = tuple(window if kind == "sliding_attention" else 0 for kind in kinds)
    return replace(geometry, attention=replace(geometry.attention, windows=windows if any(windows) else ()))
