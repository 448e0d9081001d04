"""Which tensors a checkpoint holds, and of what shape: Hugging Face's names, and GGUF's for the same.

Owns names and shapes over the parts of a layer. Doesn't know files, or what is computed with a tensor.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from types import MappingProxyType

from helix_df.layers import LayerRange
from helix_df.profiles.families.family import PLAIN_GGUF_NAMES, Family, Names
from helix_df.profiles.families.registry import family_of
from helix_df.profiles.geometry import ModelGeometry, Shape, layer_parts

EMBEDDING, FINAL_NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
_LAYER_NAME = re.compile(r"(?:model\.layers|blk)\.(\d+)\.(.+)")
_EXPERT = re.compile(r"\.experts\.(\d+)\.")
_OUTSIDE = MappingProxyType({EMBEDDING: "token_embd.weight", FINAL_NORM: "output_norm.weight", HEAD: "output.weight"})


def model_tensors(geometry: ModelGeometry, layers: LayerRange | None = None) -> dict[str, Shape]:
    """Shape by Hugging Face name of every tensor that ``layers`` (default: all) are computed from.

    The first layers come with the embedding, the last with the final norm and the head (or the embedding, if tied).
    """
    held = layers or LayerRange(0, geometry.num_layers)
    first, last = held.start == 0, held.stop == geometry.num_layers
    vocabulary = (geometry.vocab_size, geometry.hidden_size)
    shapes: dict[str, Shape] = {}
    if first or (last and geometry.tie_embeddings):
        shapes[EMBEDDING] = vocabulary
    in_layer = {geometry.has_experts(layer): _layer_tensors(geometry, layer) for layer in geometry.layer_kinds}
    for layer in range(held.start, held.stop):
        tensors = in_layer[geometry.has_experts(layer)]
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in tensors.items()}
    if last:
        shapes[FINAL_NORM] = (geometry.hidden_size,)
    if last and not geometry.tie_embeddings:
        shapes[HEAD] = vocabulary
    return shapes


def layer_names(geometry: ModelGeometry) -> Names:
    """The tensors of each part of a layer, named within it."""
    return family_of(geometry.family, "the model's geometry").names


def is_of_further_layer(name: str, geometry: ModelGeometry) -> bool:
    """Whether a tensor belongs to a layer beyond the model's last."""
    match = _LAYER_NAME.fullmatch(name)
    return match is not None and int(match[1]) >= geometry.num_layers


def in_layers(name: str, layers: LayerRange | None) -> bool:
    """Whether a tensor belongs to one of ``layers`` (default: all); those outside all layers belong to everybody."""
    match = _LAYER_NAME.fullmatch(name)
    return layers is None or match is None or layers.start <= int(match[1]) < layers.stop


def is_in_a_layer(name: str) -> bool:
    """Whether a tensor belongs to one layer, and not to the ends of the model."""
    return _LAYER_NAME.fullmatch(name) is not None


def gguf_name(name: str, family: Family | None = None) -> str:
    """The GGUF name of a Hugging Face tensor of ``family`` (default: a plain one); an unknown one stays as it is."""
    match = _LAYER_NAME.fullmatch(name)
    if match is None:
        return _OUTSIDE.get(name, name)
    own = {} if family is None or family.gguf is None else family.gguf.names
    names, whole = {**PLAIN_GGUF_NAMES, **own}, _EXPERT.sub(".experts.{}.", match[2])
    stem, _, kind = whole.rpartition(".")
    return f"blk.{match[1]}.{names[whole] if whole in names else f'{names.get(stem, stem)}.{kind}'}"


def gguf_tensors(
    geometry: ModelGeometry, layers: LayerRange | None, family: Family, stored: Collection[str]
) -> dict[str, Shape]:
    """As ``model_tensors``, by GGUF's names: the same tensors of all experts are one there, [experts, out, in].

    ``stored`` are the names in the file, which tell ``latent_halves`` from what they are halves of.
    """
    tensors: dict[str, Shape] = {}
    for name, shape in model_tensors(geometry, layers).items():
        stacked = (geometry.experts.count, *shape) if expert_of(name) is not None else without_ones(shape)
        whole = gguf_name(name, family)
        tensors |= {whole: stacked} if whole in stored else latent_halves(whole, geometry) or {whole: stacked}
    return tensors


def latent_halves(name: str, geometry: ModelGeometry) -> dict[str, Shape]:
    """What newer GGUF files hold in place of the tensor ``name`` that takes latents up: keys' part and values'.

    Keys' is transposed, [heads, rank, out], values' isn't, [heads, out, rank]. Empty for other tensors.
    """
    stem, latent = name.removesuffix(".attn_kv_b.weight"), geometry.latent
    if stem == name or not latent.rank:
        return {}
    return {
        f"{stem}.attn_k_b.weight": (geometry.num_heads, latent.rank, geometry.head_dim - latent.rotated),
        f"{stem}.attn_v_b.weight": (geometry.num_heads, latent.values, latent.rank),
    }


def without_ones(shape: Shape) -> Shape:
    """A shape as GGUF stores it: a matrix with one row is a vector."""
    return shape[1:] if len(shape) > 1 and shape[0] == 1 else shape


def expert_of(name: str) -> int | None:
    """The number of the expert that a tensor in Hugging Face's naming belongs to, if it belongs to one."""
    match = _EXPERT.search(name)
    return None if match is None else int(match[1])


def _layer_tensors(geometry: ModelGeometry, layer: int) -> dict[str, Shape]:
    """Shapes by name within ``layer``; several shapes under one name are one tensor, its rows one after the other, and
    experts are tensors of their own."""
    names, tensors = layer_names(geometry), dict[str, Shape]()
    for part, shapes in layer_parts(geometry, layer).items():
        if "{}" in names[part][0]:
            for expert in range(geometry.experts.count):
                tensors |= {name.format(expert): shape[1:] for name, shape in zip(names[part], shapes, strict=True)}
        elif len(names[part]) == len(shapes):
            tensors |= dict(zip(names[part], shapes, strict=True))
        else:
            (name,) = names[part]
            tensors[name] = (sum(shape[0] for shape in shapes), *shapes[0][1:])
    return tensors
