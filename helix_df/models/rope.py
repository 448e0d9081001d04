"""Rotary positions (arXiv 2104.09864) in the half-split layout of Hugging Face checkpoints.

Owns frequencies, their scaling to longer contexts and the rotation. Doesn't know heads or caches.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jax import Array

from helix_df.profiles.geometry import ModelGeometry, RopeScaling


def rope_frequencies(geometry: ModelGeometry) -> np.ndarray:
    """Radians a position for each of the ``head_dim / 2`` pairs: ``theta ** (-2 i / head_dim)``, then scaled.

    Returns:
        float32 [head_dim / 2].
    """
    exponents = np.arange(0, geometry.head_dim, 2, dtype=np.float32) / np.float32(geometry.head_dim)
    frequencies: np.ndarray = 1.0 / np.power(np.float32(geometry.rope_theta), exponents, dtype=np.float32)
    if geometry.rope_scaling is not None:
        frequencies = scale_frequencies(frequencies, geometry.rope_scaling)
    return frequencies.astype(np.float32)


def scale_frequencies(frequencies: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """Stretch frequencies as ``scaling`` says; the llama3 ramp is that of Meta's Llama 3.1 reference code.

    Raises:
        ValueError: for a kind other than linear, llama3 and divisors.
    """
    if scaling.kind == "divisors":
        return frequencies / np.asarray(scaling.divisors, np.float32)
    if scaling.kind == "linear":
        return frequencies / np.float32(scaling.factor)
    if scaling.kind != "llama3":
        raise ValueError(f"unknown rope scaling {scaling.kind!r}")
    wavelengths = 2 * math.pi / frequencies
    turns = scaling.original_context / wavelengths
    ramp = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = np.clip(ramp, 0.0, 1.0)
    stretched: np.ndarray = (1 - kept) * frequencies / scaling.factor + kept * frequencies
    return stretched


def rope_tables(frequencies: Array | np.ndarray, positions: Array) -> tuple[Array, Array]:
    """Cosines and sines, float32 [B, T, head_dim / 2], of integer ``positions`` [B, T]."""
    angles = positions.astype(jnp.float32)[..., None] * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(heads: Array, cos: Array, sin: Array) -> Array:
    """Rotate ``heads`` [B, T, n, head_dim], pairing dimension i with i + head_dim / 2."""
    first, second = jnp.split(heads.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[:, :, None, :], sin[:, :, None, :]
    turned = jnp.concatenate((first * cos - second * sin, second * cos + first * sin), axis=-1)
    return turned.astype(heads.dtype)
