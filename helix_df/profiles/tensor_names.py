"""Which tensors a Llama checkpoint holds, and of what shape: Hugging Face's names, and GGUF's for the same.

Owns names and shapes. Doesn't know files, or what is computed with a tensor.
"""

from __future__ import annotations

import re
from types import MappingProxyType

from helix_df.layers import LayerRange
from helix_df.profiles.geometry import ModelGeometry

EMBEDDING, FINAL_NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
_LAYER_NAME = re.compile(r"(?:model\.layers|blk)\.(\d+)\.(.+)")
_IN_LAYER = MappingProxyType(
    {
        "input_layernorm.weight": "attn_norm.weight",
        "self_attn.q_proj.weight": "attn_q.weight",
        "self_attn.k_proj.weight": "attn_k.weight",
        "self_attn.v_proj.weight": "attn_v.weight",
        "self_attn.o_proj.weight": "attn_output.weight",
        "post_attention_layernorm.weight": "ffn_norm.weight",
        "mlp.gate_proj.weight": "ffn_gate.weight",
        "mlp.up_proj.weight": "ffn_up.weight",
        "mlp.down_proj.weight": "ffn_down.weight",
    }
)
_OUTSIDE = MappingProxyType({EMBEDDING: "token_embd.weight", FINAL_NORM: "output_norm.weight", HEAD: "output.weight"})


def model_tensors(geometry: ModelGeometry, layers: LayerRange | None = None) -> dict[str, tuple[int, ...]]:
    """Shape by Hugging Face name of every tensor that ``layers`` (default: all) are computed from.

    The first layers come with the embedding, the last with the final norm and the head (or the embedding, if tied).
    """
    held = layers or LayerRange(0, geometry.num_layers)
    first, last = held.start == 0, held.stop == geometry.num_layers
    vocabulary = (geometry.vocab_size, geometry.hidden_size)
    shapes: dict[str, tuple[int, ...]] = {}
    if first or (last and geometry.tie_embeddings):
        shapes[EMBEDDING] = vocabulary
    for layer in range(held.start, held.stop):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in _layer_tensors(geometry).items()}
    if last:
        shapes[FINAL_NORM] = (geometry.hidden_size,)
    if last and not geometry.tie_embeddings:
        shapes[HEAD] = vocabulary
    return shapes


def in_layers(name: str, layers: LayerRange | None) -> bool:
    """Whether a tensor belongs to one of ``layers`` (default: all); those outside all layers belong to everybody."""
    match = _LAYER_NAME.fullmatch(name)
    return layers is None or match is None or layers.start <= int(match[1]) < layers.stop


def gguf_name(name: str) -> str:
    """The GGUF name of a Hugging Face Llama tensor; an unknown name comes back as it is."""
    match = _LAYER_NAME.fullmatch(name)
    if match is None:
        return _OUTSIDE.get(name, name)
    return f"blk.{match[1]}.{_IN_LAYER.get(match[2], match[2])}"


def _layer_tensors(geometry: ModelGeometry) -> dict[str, tuple[int, ...]]:
    hidden, inner = geometry.hidden_size, geometry.intermediate_size
    query, key_value = geometry.num_heads * geometry.head_dim, geometry.num_kv_heads * geometry.head_dim
    return {
        "input_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (query, hidden),
        "self_attn.k_proj.weight": (key_value, hidden),
        "self_attn.v_proj.weight": (key_value, hidden),
        "self_attn.o_proj.weight": (hidden, query),
        "post_attention_layernorm.weight": (hidden,),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
    }
