"""The gated MLP: what goes up is let through by a gate of its own (arXiv 2002.05202)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from helix_df.models.linear import Matrix, linear

_SLOPE, _LIMIT = 1.702, 7.0


def _by(activation: Callable[[Array], Array]) -> Callable[[Array, Array], Array]:
    return lambda gate, up: activation(gate) * up


def _clamped_swish(gate: Array, up: Array) -> Array:
    """Both clamped, and what goes up counted from -1 (transformers' ``GptOssExperts``, arXiv 2508.10925)."""
    gate, up = jnp.minimum(gate, _LIMIT), jnp.clip(up, -_LIMIT, _LIMIT)
    return gate * jax.nn.sigmoid(_SLOPE * gate) * (up + 1)


GATES: dict[str, Callable[[Array, Array], Array]] = {
    "silu": _by(jax.nn.silu),
    "gelu_tanh": _by(partial(jax.nn.gelu, approximate=True)),
    "clamped_swish": _clamped_swish,
}
"""What a gate lets through of what goes up, by activation."""


def gated_mlp(hidden: Array, gate_up: Matrix, down: Matrix, activation: str) -> Array:
    """[..., hidden] → [..., hidden]. ``gate_up`` [2 * inner, hidden] and ``down`` in any layout of ``linear``."""
    gate, up = jnp.split(linear(hidden, gate_up), 2, axis=-1)
    return linear(GATES[activation](gate, up), down)
