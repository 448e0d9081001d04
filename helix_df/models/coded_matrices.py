"""Matrices that safetensors hold in few bits, as numbers or as levels and scales that stay packed.

Owns the arithmetic of ``profiles.quantized_matrices``. Where each format is described: the compressed-tensors package
(``compressors``), DeepSeek V3's README on FP8 weights, AutoAWQ (``WQLinear_GEMM``), AutoGPTQ (``QuantLinear.pack``).
Doesn't know files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import ml_dtypes
import numpy as np

from helix_df.errors import ModelError
from helix_df.models.quantized import Quantized
from helix_df.profiles.quantized_matrices import Coding

_AWQ_ORDER = np.array([0, 4, 1, 5, 2, 6, 3, 7])
"""Where in a word of AutoAWQ each of eight neighbours lies."""

Parts = Mapping[str, np.ndarray]
"""What is stored for a matrix, by the names after its module's (``Coding.tensors``)."""


class Levels(NamedTuple):
    """``scale * (level - zero)``: levels [out, in]; scales float32 and zeros [rows, groups], or one zero for all.

    ``group`` is each input's, where groups aren't neighbours.
    """

    levels: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray | float
    group: np.ndarray | None = None


def coded_values(coding: Coding, parts: Parts, shape: tuple[int, int]) -> np.ndarray:
    """The matrix of ``shape`` [out, in] in float32."""
    levels, scales, zeros, group = _levels(coding, parts, shape)
    numbers = levels.astype(np.float32)
    if isinstance(zeros, np.ndarray) or zeros:
        numbers -= _spread(np.asarray(zeros, np.float32), coding, shape, group)
    numbers *= _spread(scales, coding, shape, group)
    return numbers


def coded_levels(coding: Coding, parts: Parts, shape: tuple[int, int], name: str) -> Quantized:
    """The matrix in ``coding.packed_kind``: its own levels, scales to the nearest float16, or of FP8 as they are.

    A zero becomes the minimum ``-scale * zero``, to the nearest float16: of four bits it is off by less than 1/136 of
    the step between two levels.

    Raises:
        ModelError: when zeros aren't what the configuration says.
    """
    kind = coding.packed_kind
    if kind is None:
        raise ValueError(f"{name}: {coding.in_words}")
    levels, scales, zeros, _ = _levels(coding, parts, shape)
    by_block = (shape[0], kind.blocks(shape[1]))
    each = (coding.columns or shape[1]) // kind.inputs
    if coding.rows > 1:
        scales = np.repeat(scales, coding.rows, axis=0)[: shape[0]]
    if kind.floats:
        return Quantized(kind, levels.view(np.uint8), _blocks(scales, each, by_block), None)
    # Signed levels, which begin below zero, from there.
    first = -(1 << (coding.bits - 1)) if levels.dtype == np.int8 else 0
    middle = first + (1 << (coding.bits - 1))
    if not kind.minima and not np.all(zeros == middle):
        raise ModelError(
            "the zeros of a matrix aren't in the middle of its levels, although config.json says so",
            where=name,
            found=f"from {np.min(zeros) - first:g} to {np.max(zeros) - first:g}",
            expected=f"{middle - first}",
            hint="leave model.weights out, and they are read as numbers",
        )
    spread = _blocks(scales, each, by_block)
    with np.errstate(over="ignore"):
        minima = (spread * _blocks(first - np.asarray(zeros, np.float32), each, by_block)).astype(np.float16)
        return Quantized(
            kind,
            (levels.astype(np.int16) - first).astype(np.uint8),
            spread.astype(np.float16),
            minima if kind.minima else None,
        )


def _blocks(grid: np.ndarray, each: int, by_block: tuple[int, int]) -> np.ndarray:
    """[rows, groups], or one number → of each block of inputs."""
    wide = np.repeat(grid, each, axis=1)[:, : by_block[1]] if grid.ndim == 2 and grid.shape[1] > 1 else grid
    return np.broadcast_to(wide, by_block)


def _spread(grid: np.ndarray, coding: Coding, shape: tuple[int, int], group: np.ndarray | None) -> np.ndarray:
    """[rows, groups], or one number → what goes with a matrix [out, in]."""
    if grid.ndim < 2:
        return grid
    if grid.shape[0] > 1 and coding.rows > 1:
        grid = np.repeat(grid, coding.rows, axis=0)[: shape[0]]
    if group is not None:
        return grid[:, group]
    return np.repeat(grid, coding.columns, axis=1)[:, : shape[1]] if grid.shape[1] > 1 else grid


def _levels(coding: Coding, parts: Parts, shape: tuple[int, int]) -> Levels:
    if coding.form in ("awq", "gptq"):
        return _transposed(coding, parts, shape)
    grid, stored = coding.grid(shape), parts[coding.levels_name]
    scales = parts[coding.scale].astype(np.float32).reshape(grid)
    group = _group(coding, parts, shape)
    if coding.form == "packed":
        # Signed numbers are stored from their least on, and so are zeros, whose words go along outputs.
        levels = _unpacked(stored, coding.bits)[:, : shape[1]]
        middle = float(1 << (coding.bits - 1))
        if not coding.zeros:
            return Levels(levels, scales, middle, group)
        zeros = _unpacked(parts[coding.zeros_name].T, coding.bits).T[: grid[0]]
        return Levels(levels, scales, zeros, group)
    levels = stored.view(ml_dtypes.float8_e4m3fn) if coding.form == "float8" else stored
    if not coding.zeros:
        return Levels(levels, scales, 0.0, group)
    return Levels(levels, scales, parts[coding.zeros_name].astype(np.float32).reshape(grid), group)


def _transposed(coding: Coding, parts: Parts, shape: tuple[int, int]) -> Levels:
    words, scales = parts[coding.levels_name], parts[coding.scale].astype(np.float32).T
    zeros = _unpacked(parts[coding.zeros_name], coding.bits)
    if coding.form == "awq":
        levels = _in_order(_unpacked(words, coding.bits)).T
        return Levels(levels[: shape[0]], scales, _in_order(zeros).T[: shape[0]])
    levels = _unpacked(words.T, coding.bits)[:, : shape[1]]
    whole = zeros[:, : shape[0]].T.astype(np.int16) + np.int16(coding.zero_less)  # beyond the levels, if need be
    return Levels(levels, scales, whole, _group(coding, parts, shape))


def _group(coding: Coding, parts: Parts, shape: tuple[int, int]) -> np.ndarray | None:
    """Each input's group, where they aren't neighbours.

    Raises:
        ModelError: when there is no such group, or the configuration says that they are.
    """
    group, groups = parts.get(coding.order_name), coding.grid(shape)[1]
    if group is None:
        return None
    if group.min() < 0 or group.max() >= groups:
        raise ModelError("an input belongs to no group", where=coding.order_name, found=f"{group.max()} of {groups}")
    if np.array_equal(group, np.arange(shape[1]) // (coding.columns or shape[1])):
        return None
    if not coding.ordered:
        raise ModelError(
            "inputs are in another order than the configuration says",
            where=coding.order_name,
            expected="groups of neighbours, or desc_act: true",
        )
    return group


def _unpacked(words: np.ndarray, bits: int) -> np.ndarray:
    """Words [n, m] of numbers of 4 or 8 bits → uint8 [n, m * 32 / bits], the lowest bits of a word first."""
    octets = np.ascontiguousarray(words, "<i4").view(np.uint8)
    return octets if bits == 8 else np.stack([octets & 15, octets >> 4], axis=-1).reshape(len(words), -1)


def _in_order(numbers: np.ndarray) -> np.ndarray:
    """[n, m] of AutoAWQ's words in their own order."""
    return numbers.reshape(len(numbers), -1, len(_AWQ_ORDER))[:, :, _AWQ_ORDER].reshape(numbers.shape)
