"""The norm that all families here use."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from helix_df.models.scopes import scope


@scope("norm")
def rms_norm(
    hidden: Array, weight: Array, epsilon: float, over_all: Callable[[Array], Array] = lambda mean: mean
) -> Array:
    """Divide by the root mean square of the last axis, in float32, and scale (arXiv 1910.07467).

    A weight in float32 multiplies before the result is rounded to the dtype of ``hidden``. ``over_all`` makes the mean
    of squares that of a vector of which this is a part.
    """
    exact = hidden.astype(jnp.float32)
    mean = over_all(jnp.mean(exact * exact, axis=-1, keepdims=True))
    exact = exact * jax.lax.rsqrt(mean + epsilon)
    return (weight * exact.astype(weight.dtype)).astype(hidden.dtype)
