"""Rotary positions (arXiv 2104.09864) in the half-split layout of Hugging Face checkpoints.

Owns frequencies, their scaling to longer contexts and the rotation. Doesn't know heads or caches.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jax import Array

from helix_df.models.scopes import scope
from helix_df.profiles.geometry import ModelGeometry, RopeScaling


def rope_frequencies(geometry: ModelGeometry, context: int | None = None) -> np.ndarray:
    """Radians a position for each rotated pair, a row for each way to rotate: ``theta ** (-2 i / dims)``, then scaled.

    The first row is that of all layers, unless ``rotary_kind`` says another: the second that of layers with a window,
    where they have a base of their own, and the last that of layers that don't rotate, all zeros.

    Args:
        geometry: says how.
        context: the longest that a request gets; default the model's. Only LongRoPE asks.

    Returns:
        float32 [kinds, dims / 2].
    """
    rotary = geometry.rotary
    first = _unscaled(geometry.rope_theta, geometry.rotated_dims)
    if geometry.rope_scaling is not None:
        first = scale_frequencies(
            first, geometry.rope_scaling, theta=geometry.rope_theta, context=context or geometry.context_length
        )
    rows = [first]
    if rotary.window_theta is not None:
        rows.append(_unscaled(rotary.window_theta, geometry.rotated_dims))
    if rotary.unrotated:
        rows.append(np.zeros_like(first))
    return np.stack(rows).astype(np.float32)


def rotary_kind(geometry: ModelGeometry, layer: int) -> int:
    """Which row of ``rope_frequencies`` rotates ``layer``."""
    rotary = geometry.rotary
    if layer in rotary.unrotated:
        return 1 if rotary.window_theta is None else 2
    return int(rotary.window_theta is not None and geometry.attention.window(layer) > 0)


def attention_factors(geometry: ModelGeometry) -> np.ndarray:
    """What cosines and sines of each kind are multiplied by, float32 [kinds]: only scaled frequencies are."""
    rotary, scaling = geometry.rotary, geometry.rope_scaling
    kinds = 1 + (rotary.window_theta is not None) + bool(rotary.unrotated)
    first = 1.0 if scaling is None else scaling.attention_factor
    return np.asarray([first] + [1.0] * (kinds - 1), np.float32)


def _unscaled(theta: float, dims: int) -> np.ndarray:
    exponents = np.arange(0, dims, 2, dtype=np.float32) / np.float32(dims)
    frequencies: np.ndarray = 1.0 / np.power(np.float32(theta), exponents, dtype=np.float32)
    return frequencies


def scale_frequencies(
    frequencies: np.ndarray, scaling: RopeScaling, *, theta: float = 10000.0, context: int = 0
) -> np.ndarray:
    """Stretch frequencies as ``scaling`` says; the llama3 ramp is that of Meta's Llama 3.1 reference code.

    Args:
        frequencies: float32 [dims / 2].
        scaling: how; see ``RopeScaling``.
        theta: the base of the frequencies.
        context: the longest that a request gets.

    Raises:
        ValueError: for a kind that there isn't.
    """
    if scaling.kind == "longrope":
        divisors = scaling.long_divisors if context > scaling.original_context else scaling.divisors
        return frequencies / np.asarray(divisors, np.float32)
    if scaling.kind == "divisors":
        return frequencies / np.asarray(scaling.divisors, np.float32)
    if scaling.kind == "linear":
        return frequencies / np.float32(scaling.factor)
    if scaling.kind == "yarn":
        kept = _yarn_kept(len(frequencies), scaling, theta)
    elif scaling.kind == "llama3":
        turns = scaling.original_context * frequencies / (2 * math.pi)
        ramp = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
        kept = np.clip(ramp, 0.0, 1.0)
    else:
        raise ValueError(f"unknown rope scaling {scaling.kind!r}")
    stretched: np.ndarray = (1 - kept) * frequencies / scaling.factor + kept * frequencies
    return stretched


def _yarn_kept(pairs: int, scaling: RopeScaling, theta: float) -> np.ndarray:
    """Of each pair the share that isn't stretched (arXiv 2309.00071, 3.2): a ramp over the number of the pair."""

    def pair_of(turns: float) -> float:
        """Which pair turns so often in the original context."""
        return pairs * math.log(scaling.original_context / (turns * 2 * math.pi)) / math.log(theta)

    low, high = pair_of(scaling.beta_fast), pair_of(scaling.beta_slow)
    if scaling.truncated:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * pairs - 1)
    if low == high:
        high += 0.001
    ramp = (np.arange(pairs, dtype=np.float32) - low) / (high - low)
    kept: np.ndarray = 1 - np.clip(ramp, 0.0, 1.0)
    return kept


def rope_tables(
    frequencies: Array | np.ndarray, positions: Array, factors: np.ndarray | None = None
) -> tuple[Array, Array]:
    """Cosines and sines, float32 [B, T, kinds, dims / 2], of integer ``positions`` [B, T].

    ``frequencies`` [kinds, dims / 2] are ``rope_frequencies``; ``factors`` [kinds] are ``attention_factors``.
    """
    angles = positions.astype(jnp.float32)[..., None, None] * frequencies
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    if factors is None or np.all(factors == 1):
        return cos, sin
    return cos * factors[:, None], sin * factors[:, None]


@scope("rope")
def rotate(heads: Array, cos: Array, sin: Array) -> Array:
    """Rotate ``heads`` [B, T, n, head_dim], pairing dimension i with i + dims / 2; the others stay as they are.

    ``cos`` and ``sin`` [B, T, dims / 2] are of one kind.
    """
    dims = 2 * cos.shape[-1]
    turning, still = heads[..., :dims], heads[..., dims:]
    first, second = jnp.split(turning.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[:, :, None, :], sin[:, :, None, :]
    turned = jnp.concatenate((first * cos - second * sin, second * cos + first * sin), axis=-1).astype(heads.dtype)
    return turned if not still.shape[-1] else jnp.concatenate((turned, still), axis=-1)
