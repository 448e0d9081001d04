"""The norm that all families here use."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def rms_norm(hidden: Array, weight: Array, epsilon: float) -> Array:
    """Divide by the root mean square of the last axis, in float32, and scale (arXiv 1910.07467).

    A weight in float32 multiplies before the result is rounded to the dtype of ``hidden``.
    """
    exact = hidden.astype(jnp.float32)
    exact = exact * jax.lax.rsqrt(jnp.mean(exact * exact, axis=-1, keepdims=True) + epsilon)
    return (weight * exact.astype(weight.dtype)).astype(hidden.dtype)
