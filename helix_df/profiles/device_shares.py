"""How a model's layers are divided among the devices of one node, under tensor parallelism (arXiv 1909.08053).

Attention heads, inner widths and rows of the vocabulary are divided. Where there are fewer key and value heads than
devices, several hold the same one. A latent vector is the key of all heads: every device computes and keeps it whole.

Owns the table of what is divided, and the geometry of a share. Doesn't know weights or devices.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from helix_df.errors import ModelError
from helix_df.profiles.geometry import ModelGeometry, layer_parts

_PANEL = 64
"""Outputs a panel (``models.linear``)."""

Divided = Literal["query", "key_value", "inner", "vocabulary", "first"]
"""What an axis of a tensor goes by: query heads, key and value heads, an inner width, rows of the vocabulary. What is
added to a sum is whole on the ``first`` device, and zeros on the others."""

Rule = tuple[int, Divided] | None
"""Which axis of a tensor is divided, and by what; ``None`` for one that every device holds."""

Axes = tuple[Rule, ...]
"""Of each tensor of a part."""

_QUERY: Rule = (0, "query")
_KEY_VALUE: Rule = (0, "key_value")
_ROWS: Rule = (0, "inner")
_COLUMNS: Rule = (1, "inner")

SHARES: dict[str, Axes] = {
    "qkv": (_QUERY, _KEY_VALUE, _KEY_VALUE),
    "qkv_bias": (_QUERY, _KEY_VALUE, _KEY_VALUE),
    "query": (_QUERY,),
    "query_down": (None,),
    "query_latent_norm": (None,),
    "query_up": (_QUERY,),
    "latent_down": (None,),
    "latent_norm": (None,),
    "latent_up": (_QUERY,),
    "output": ((1, "query"),),
    "gate_up": (_ROWS, _ROWS),
    "down": (_COLUMNS,),
    "router": (None,),
    "expert_gate_up": (_ROWS, _ROWS),
    "expert_down": (_COLUMNS,),
    "expert_gate_up_bias": (_ROWS, _ROWS),
    "expert_down_bias": ((0, "first"),),
    "router_bias": (None,),
    "router_correction": (None,),
    "shared_gate_up": (_ROWS, _ROWS),
    "shared_down": (_COLUMNS,),
    "shared_gate": (None,),
    "sinks": (_QUERY,),
    "output_bias": (None,),
    "query_norm": (_QUERY,),
    "key_norm": (_KEY_VALUE,),
    "attention_norm": (None,),
    "mlp_norm": (None,),
    "attention_post_norm": (None,),
    "mlp_post_norm": (None,),
}
"""By the parts of a layer (``layer_parts``); experts are tensors of their own, [out, in] each."""


def share_of(geometry: ModelGeometry, count: int) -> ModelGeometry:
    """The model as one of ``count`` devices computes it.

    Raises:
        ModelError: when the model can't be divided so.
    """
    if count == 1:
        return geometry
    parts = {part for layer in geometry.layer_kinds for part in layer_parts(geometry, layer)}
    unknown = sorted(parts - set(SHARES))
    if unknown:
        raise ModelError(
            "layers of this family can't be divided among devices yet",
            where=geometry.family,
            found=", ".join(unknown),
            hint="declare a node for each device",
        )
    kv_heads = geometry.num_kv_heads
    if not geometry.latent.rank and kv_heads % count and count % kv_heads:
        raise _indivisible("key and value heads", kv_heads, count)
    if geometry.num_heads % count:
        raise _indivisible("attention heads", geometry.num_heads, count)
    experts = geometry.experts
    return replace(
        geometry,
        num_heads=geometry.num_heads // count,
        num_kv_heads=max(1, kv_heads // count),
        intermediate_size=-(-geometry.intermediate_size // count),
        experts=replace(experts, inner=-(-experts.inner // count), shared=-(-experts.shared // count)),
        vocab_size=vocabulary_rows(geometry, count),
        shares=count,
    )


def held_by(geometry: ModelGeometry, count: int) -> ModelGeometry:
    """The model as ``count`` devices hold it together: key and value heads as often as there are devices, at least, and
    latents as often as there are devices."""
    if geometry.latent.rank:
        return replace(geometry, latent=replace(geometry.latent, copies=count))
    return replace(geometry, num_kv_heads=max(count, geometry.num_kv_heads))


def _indivisible(what: str, number: int, count: int) -> ModelError:
    return ModelError(
        f"the model's {what} can't be divided evenly among the node's devices",
        found=f"{number} among {count}",
        expected="a number of devices that divides them",
    )


def vocabulary_rows(geometry: ModelGeometry, count: int) -> int:
    """Rows of the vocabulary a device, in whole panels of the runtime's: the last device's mean nothing at the end."""
    return -(-geometry.vocab_size // (count * _PANEL)) * _PANEL
