"""Weights in MXFP4, as numbers or packed levels (OCP Microscaling Formats specification v1.0, 5.3 and 6.3)."""

from __future__ import annotations

import numpy as np

from helix_df.models.quantized import Quantized
from helix_df.profiles.packed_kinds import KIND_OF_TYPE

_MAGNITUDES = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], np.float32)
_VALUES = np.concatenate([_MAGNITUDES, -_MAGNITUDES])
_BIAS = 127
_NO_NUMBER = 255


def from_mxfp4(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Four-bit numbers, each times its block's power of two.

    Args:
        blocks: uint8 [..., blocks, 16]; of the two numbers in a byte the lower half is the first.
        scales: uint8 [..., blocks], exponents plus 127.

    Returns:
        float32 [..., blocks * 32]; NaN in blocks whose scale is none.
    """
    numbers = _VALUES[_codes(blocks)]
    powers = np.ldexp(np.float32(1), np.minimum(scales, _NO_NUMBER - 1).astype(np.int32) - _BIAS)
    powers = np.where(scales == _NO_NUMBER, np.float32(np.nan), powers)
    values: np.ndarray = (numbers * powers[..., None]).reshape(*blocks.shape[:-2], -1)
    return values


def mxfp4_levels(blocks: np.ndarray, scales: np.ndarray) -> Quantized:
    """The same of one matrix, [out, in / 32, 16] and [out, in / 32], as it stays packed."""
    return Quantized(KIND_OF_TYPE["MXFP4"], _codes(blocks).reshape(len(blocks), -1), scales, None)


def _codes(blocks: np.ndarray) -> np.ndarray:
    """[..., blocks, 16] → numbers of four bits, [..., blocks, 32]."""
    return np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*blocks.shape[:-1], -1)
