"""Gemma 2 (arXiv 2408.00118) and the text model of Gemma 3 (arXiv 2503.19786).

Norms before and after attention and MLP, with weights stored less one; windows in most layers; embeddings scaled by the
root of the width. Gemma 2 caps scores and logits; Gemma 3 norms each head of queries and keys, and rotates layers with
a window by a base of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from helix_df.profiles.families.family import PLAIN_NAMES, Config, Family, Gguf, Names, with_biases, with_windows
from helix_df.profiles.geometry import BlockOptions, EndOptions, ModelGeometry

_NAMES: Names = MappingProxyType(
    {
        **PLAIN_NAMES,
        "attention_post_norm": ("post_attention_layernorm.weight",),
        "mlp_norm": ("pre_feedforward_layernorm.weight",),
        "mlp_post_norm": ("post_feedforward_layernorm.weight",),
    }
)
_GGUF_NAMES = MappingProxyType(
    {
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    }
)
_DEFAULTS = MappingProxyType(
    {
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "num_key_value_heads": 4,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "tie_word_embeddings": True,
    }
)
_HONOURED = frozenset(
    {
        "attention_bias",
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "layer_types",
        "query_pre_attn_scalar",
        "sliding_window",
    }
)
_GELU_TANH = ("gelu_pytorch_tanh",)
_ONLY = MappingProxyType(
    {
        "hidden_act": (*_GELU_TANH, "gelu"),  # of old files, in which hidden_activation is what counts
        "hidden_activation": _GELU_TANH,
        "use_bidirectional_attention": (False,),
    }
)


def _shared(config: Config, geometry: ModelGeometry, every: int) -> ModelGeometry:
    """What both have; of ``every`` layers the last sees everything, unless ``layer_types`` says which do."""
    kinds = config.get("layer_types") or [
        "full_attention" if (layer + 1) % every == 0 else "sliding_attention" for layer in range(geometry.num_layers)
    ]
    geometry = with_biases(config, with_windows({**config, "layer_types": kinds}, geometry))
    attention = replace(
        geometry.attention,
        scale=float(config["query_pre_attn_scalar"]) ** -0.5,
        softcap=_cap(config.get("attn_logit_softcapping")),
    )
    return replace(
        geometry,
        attention=attention,
        block=BlockOptions(norms="both", activation="gelu_tanh"),
        ends=EndOptions(
            embedding_scale=math.sqrt(geometry.hidden_size),
            logits_softcap=_cap(config.get("final_logit_softcapping")),
        ),
    )


def _cap(said: float | None) -> float | None:
    return None if said is None else float(said)


def _gemma2(config: Config, geometry: ModelGeometry) -> ModelGeometry:
    return _shared(config, geometry, every=2)


def _gemma3(config: Config, geometry: ModelGeometry) -> ModelGeometry:
    geometry = _shared(config, geometry, every=int(config.get("sliding_window_pattern") or 6))
    attention = replace(geometry.attention, query_key_norm="head")
    local = dict(config.get("rope_parameters") or {}).get("sliding_attention") or {}
    theta = float(local.get("rope_theta") or config["rope_local_base_freq"])
    return replace(geometry, attention=attention, rotary=replace(geometry.rotary, window_theta=theta))


def _scalar_of_27b(layers: int) -> Any:
    """GGUF doesn't store ``query_pre_attn_scalar``: it is the head's size, but for the largest model of each series."""

    def restated(config: Config) -> Mapping[str, Any]:
        heads, hidden, head = config["num_attention_heads"], config["hidden_size"], config["head_dim"]
        largest = config["num_hidden_layers"] == layers
        return {**config, "query_pre_attn_scalar": hidden // heads if largest else head}

    return restated


GEMMA2 = Family(
    name="gemma2",
    architectures=("Gemma2ForCausalLM",),
    defaults=MappingProxyType({**_DEFAULTS, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}),
    honoured=_HONOURED,
    only=_ONLY,
    options=_gemma2,
    names=_NAMES,
    norm_offset=1.0,
    gguf=Gguf(
        "gemma2",
        words=MappingProxyType(
            {
                "attention.sliding_window": "sliding_window",
                "attn_logit_softcapping": "attn_logit_softcapping",
                "final_logit_softcapping": "final_logit_softcapping",
            }
        ),
        names=_GGUF_NAMES,
        restated=_scalar_of_27b(46),
    ),
)
GEMMA3 = Family(
    name="gemma3_text",
    architectures=("Gemma3ForCausalLM",),
    defaults=MappingProxyType(
        {**_DEFAULTS, "max_position_embeddings": 131072, "rope_local_base_freq": 10000.0, "rope_theta": 1e6}
    ),
    honoured=_HONOURED | {"rope_local_base_freq", "sliding_window_pattern"},
    only=_ONLY,
    options=_gemma3,
    names=_NAMES,
    norm_offset=1.0,
    gguf=Gguf(
        "gemma3",
        words=MappingProxyType(
            {
                "attention.sliding_window": "sliding_window",
                "attention.sliding_window_pattern": "sliding_window_pattern",
                "final_logit_softcapping": "final_logit_softcapping",
                "rope.freq_base_swa": "rope_local_base_freq",
            }
        ),
        names=_GGUF_NAMES,
        restated=_scalar_of_27b(62),
    ),
)
