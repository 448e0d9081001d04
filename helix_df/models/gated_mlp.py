"""The gated MLP: what goes up is let through by a gate of its own (arXiv 2002.05202)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from helix_df.models.linear import linear

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
}


def gated_mlp(hidden: Array, gate_up: Array, down: Array, activation: str) -> Array:
    """[..., hidden] → [..., hidden]. ``gate_up`` [2 * inner, hidden] and ``down`` in any layout of ``linear``."""
    gate, up = jnp.split(linear(hidden, gate_up), 2, axis=-1)
    return linear(ACTIVATIONS[activation](gate) * up, down)
