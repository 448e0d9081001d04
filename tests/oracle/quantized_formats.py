"""Matrices in the quantized formats of safetensors, written number by number from what is published of each format.

Knows nothing of how helix-df reads them. Levels and scales are chosen by rounding to the nearest, with the middle of
the levels or a zero of each group; what the stored numbers mean is computed beside, in float64.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

AWQ_LANES = (0, 2, 4, 6, 1, 3, 5, 7)
"""The column that each four bits of a word of AutoAWQ hold, the lowest first."""


class Encoded(NamedTuple):
    """Tensors by the names after the module's, and what they mean [out, in]."""

    tensors: dict[str, np.ndarray]
    values: np.ndarray


class Grid(NamedTuple):
    """Levels [out, in] from ``least`` to ``most``, scales and zeros of blocks of ``rows`` x ``columns``."""

    levels: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray


def block_of(row: int, column: int, blocks: tuple[int, int]) -> tuple[int, int]:
    return row // blocks[0], column // blocks[1]


def rounded(
    matrix: np.ndarray,
    blocks: tuple[int, int],
    least: int,
    most: int,
    *,
    scale_dtype: Any,
    asymmetric: bool,
    group: np.ndarray | None = None,
    least_zero: int | None = None,
) -> Grid:
    """Nearest levels of a matrix, block by block; ``group`` is each input's where groups aren't neighbours."""
    outputs, inputs = matrix.shape
    of = group if group is not None else np.arange(inputs) // blocks[1]
    grid = math.ceil(outputs / blocks[0]), math.ceil(inputs / blocks[1])
    levels = np.zeros(matrix.shape, np.int64)
    scales, zeros = np.zeros(grid, scale_dtype), np.zeros(grid, np.int64)
    for row, column in itertools.product(*map(range, grid)):
        rows = slice(row * blocks[0], (row + 1) * blocks[0])
        part = matrix[rows][:, of == column].astype(np.float64)
        if asymmetric:
            low, high = min(part.min(), 0.0), max(part.max(), 0.0)
            scales[row, column] = (high - low) / (most - least) or 1.0
            zeros[row, column] = np.clip(
                least - round(low / float(scales[row, column])), least if least_zero is None else least_zero, most
            )
        else:
            zeros[row, column] = (least + most + 1) // 2
            scales[row, column] = np.abs(part).max() / (most - zeros[row, column]) or 1.0
        nearest = np.rint(part / float(scales[row, column])) + zeros[row, column]
        target = levels[rows]
        target[:, of == column] = np.clip(nearest, least, most)
    return Grid(levels, scales, zeros)


def meaning(grid: Grid, blocks: tuple[int, int], group: np.ndarray | None = None) -> np.ndarray:
    values = np.zeros(grid.levels.shape, np.float64)
    for row, column in np.ndindex(values.shape):
        at = (row // blocks[0], column // blocks[1] if group is None else int(group[column]))
        values[row, column] = float(grid.scales[at]) * (int(grid.levels[row, column]) - int(grid.zeros[at]))
    return values.astype(np.float32)


def words(numbers: np.ndarray, bits: int, *, lanes: tuple[int, ...] | None = None) -> np.ndarray:
    """Unsigned numbers [n, m] → int32 [n, ceil(m * bits / 32)], the first in the lowest bits."""
    each = 32 // bits
    order = lanes or tuple(range(each))
    packed = np.zeros((len(numbers), math.ceil(numbers.shape[1] / each)), np.uint32)
    for row, word in np.ndindex(packed.shape):
        total = 0
        for lane, column in enumerate(order):
            at = word * each + column
            if at < numbers.shape[1]:
                total |= int(numbers[row, at]) << (bits * lane)
        packed[row, word] = total
    return packed.view(np.int32)


def whole(blocks: tuple[int, int], shape: tuple[int, int]) -> tuple[int, int]:
    """Sizes of blocks, where 0 is all there are."""
    return blocks[0] or shape[0], blocks[1] or shape[1]


def float8(blocks: tuple[int, int], scale: str, scale_dtype: Any) -> Callable[[np.ndarray], Encoded]:
    """compressed-tensors ``float-quantized``, and ``fp8`` of DeepSeek V3: E4M3, times the scale of its block."""

    def encode(matrix: np.ndarray) -> Encoded:
        sizes = whole(blocks, (matrix.shape[0], matrix.shape[1]))
        grid = math.ceil(matrix.shape[0] / sizes[0]), math.ceil(matrix.shape[1] / sizes[1])
        scales, levels = np.zeros(grid, scale_dtype), np.zeros(matrix.shape, ml_dtypes.float8_e4m3fn)
        values = np.zeros(matrix.shape, np.float32)
        for row, column in np.ndindex(*grid):
            part = np.s_[row * sizes[0] : (row + 1) * sizes[0], column * sizes[1] : (column + 1) * sizes[1]]
            scales[row, column] = np.abs(matrix[part]).max() / 448.0 or 1.0
            levels[part] = (matrix[part] / float(scales[row, column])).astype(ml_dtypes.float8_e4m3fn)
            values[part] = levels[part].astype(np.float64) * float(scales[row, column])
        return Encoded({"weight": levels, scale: scales[0] if grid == (1, 1) else scales}, values)

    return encode


def int8(*, asymmetric: bool = False, scale_dtype: Any = ml_dtypes.bfloat16) -> Callable[[np.ndarray], Encoded]:
    """compressed-tensors ``int-quantized``: signed bytes, a scale for each output."""

    def encode(matrix: np.ndarray) -> Encoded:
        blocks = (1, matrix.shape[1])
        grid = rounded(matrix, blocks, -128, 127, scale_dtype=scale_dtype, asymmetric=asymmetric)
        tensors = {"weight": grid.levels.astype(np.int8), "weight_scale": grid.scales}
        if asymmetric:
            tensors["weight_zero_point"] = grid.zeros.astype(np.int8)
        return Encoded(tensors, meaning(grid, blocks))

    return encode


def packed(bits: int, columns: int, *, asymmetric: bool = False) -> Callable[[np.ndarray], Encoded]:
    """compressed-tensors ``pack-quantized``: signed levels from their least on, words along inputs.

    Zeros have words along outputs.
    """

    def encode(matrix: np.ndarray) -> Encoded:
        half = 1 << (bits - 1)
        blocks = whole((1, columns), (matrix.shape[0], matrix.shape[1]))
        scale_dtype = ml_dtypes.bfloat16
        grid = rounded(matrix, blocks, -half, half - 1, scale_dtype=scale_dtype, asymmetric=asymmetric)
        tensors = {
            "weight_packed": words(grid.levels + half, bits),
            "weight_scale": grid.scales,
            "weight_shape": np.array(matrix.shape, np.int64),
        }
        if asymmetric:
            tensors["weight_zero_point"] = np.ascontiguousarray(words(grid.zeros.T + half, bits).T)
        return Encoded(tensors, meaning(grid, blocks))

    return encode


def awq(columns: int) -> Callable[[np.ndarray], Encoded]:
    """AutoAWQ ``gemm``: levels of 0 to 15 with a zero for each group; words along outputs, in an order of their own."""

    def encode(matrix: np.ndarray) -> Encoded:
        blocks = whole((1, columns), (matrix.shape[0], matrix.shape[1]))
        grid = rounded(matrix, blocks, 0, 15, scale_dtype=np.float16, asymmetric=True)
        tensors = {
            "qweight": words(grid.levels.T, 4, lanes=AWQ_LANES),
            "qzeros": words(grid.zeros.T, 4, lanes=AWQ_LANES),
            "scales": np.ascontiguousarray(grid.scales.T),
        }
        return Encoded(tensors, meaning(grid, blocks))

    return encode


def gptq(
    bits: int, columns: int, *, asymmetric: bool = False, version: int = 1, ordered: bool = False
) -> Callable[[np.ndarray], Encoded]:
    """AutoGPTQ: words of levels along inputs, of zeros (in version 1 less one) along outputs; each input's group."""

    def encode(matrix: np.ndarray) -> Encoded:
        blocks = whole((1, columns), (matrix.shape[0], matrix.shape[1]))
        group = np.arange(matrix.shape[1]) // blocks[1]
        if ordered:
            group = np.random.default_rng(matrix.size).permutation(group)
        top = (1 << bits) - 1
        less = 1 if version == 1 else 0
        grid = rounded(
            matrix, blocks, 0, top, scale_dtype=np.float16, asymmetric=asymmetric, group=group, least_zero=less
        )
        stored = grid.zeros - less
        tensors = {
            "qweight": np.ascontiguousarray(words(grid.levels, bits).T),
            "qzeros": words(stored.T, bits),
            "scales": np.ascontiguousarray(grid.scales.T),
            "g_idx": group.astype(np.int32),
        }
        return Encoded(tensors, meaning(grid, blocks, group))

    return encode


def compressed(form: str, weights: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A ``quantization_config`` of compressed-tensors, as llm-compressor writes it."""
    activations = {"num_bits": 8, "type": weights["type"], "strategy": "token", "dynamic": True, "symmetric": True}
    group = {
        "targets": ["Linear"],
        "weights": {"dynamic": False, "observer": "minmax", "observer_kwargs": {}, "symmetric": True, **weights},
        "input_activations": None if form == "pack-quantized" else activations,
        "output_activations": None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "quantization_status": "compressed",
        **more,
    }


class Format(NamedTuple):
    """A way to store quantized matrices: what the configuration says, and how a matrix is written."""

    config: dict[str, Any]
    encode: Callable[[np.ndarray], Encoded]


_FLOAT = {"num_bits": 8, "type": "float"}
_INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
_GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True, "damp_percent": 0.01}
FORMATS: dict[str, Format] = {
    "ct-fp8-tensor": Format(
        compressed("float-quantized", {**_FLOAT, "strategy": "tensor"}),
        float8((0, 0), "weight_scale", ml_dtypes.bfloat16),
    ),
    "ct-fp8-channel": Format(
        compressed("float-quantized", {**_FLOAT, "strategy": "channel"}),
        float8((1, 0), "weight_scale", ml_dtypes.bfloat16),
    ),
    "ct-fp8-block": Format(
        compressed("float-quantized", {**_FLOAT, "strategy": "block", "block_structure": [16, 32]}),
        float8((16, 32), "weight_scale", ml_dtypes.bfloat16),
    ),
    "ct-int8": Format(compressed("int-quantized", {"num_bits": 8, "type": "int", "strategy": "channel"}), int8()),
    "ct-int8-asymmetric": Format(
        compressed("int-quantized", {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": False}),
        int8(asymmetric=True),
    ),
    "ct-int4": Format(compressed("pack-quantized", _INT4), packed(4, 32)),
    "ct-int4-asymmetric": Format(
        compressed("pack-quantized", {**_INT4, "symmetric": False}), packed(4, 32, asymmetric=True)
    ),
    "ct-int8-packed": Format(
        compressed("pack-quantized", {"num_bits": 8, "type": "int", "strategy": "channel"}), packed(8, 0)
    ),
    "fp8": Format(
        {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [16, 16]},
        float8((16, 16), "weight_scale_inv", np.float32),
    ),
    "awq": Format({"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}, awq(32)),
    "gptq": Format(_GPTQ, gptq(4, 32)),
    "gptq-zeros": Format({**_GPTQ, "sym": False}, gptq(4, 32, asymmetric=True)),
    "gptq-v2": Format({**_GPTQ, "checkpoint_format": "gptq_v2"}, gptq(4, 32, version=2)),
    "gptq-int8": Format({**_GPTQ, "bits": 8, "group_size": -1}, gptq(8, 0)),
    "gptq-order": Format({**_GPTQ, "desc_act": True}, gptq(4, 32, ordered=True)),
}
