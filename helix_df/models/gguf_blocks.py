"""Blocks of GGUF's quantized tensors as levels and scales.

Owns how these blocks lie in a file: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h (``block_q4_0`` and
those after it, ``block_mxfp4``) and its ``dequantize_row_*``. Tests hold it to the gguf package.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from helix_df.models.quantized import Quantized
from helix_df.profiles.gguf_types import GgmlType
from helix_df.profiles.packed_kinds import INPUTS, KIND_OF_TYPE

_Fields = tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray, np.ndarray | None]
"""Levels, scales, minima, their whole numbers: [rows, blocks, …]."""


def quantized_rows(raw: np.ndarray, kind: GgmlType) -> Quantized:
    """Rows of a tensor, uint8 [out, bytes], of a type in ``KIND_OF_TYPE``."""
    packed = KIND_OF_TYPE[kind.name]
    blocks = raw.reshape(len(raw), -1, kind.block_bytes)
    if kind.name in _NESTED:
        return Quantized(packed, *_NESTED[kind.name](blocks)).of_each(lambda numbers: numbers.reshape(len(raw), -1))
    if packed.powers:
        return Quantized(packed, _halves(blocks[..., 1:]).reshape(len(raw), -1), blocks[..., 0], None)
    at = 2 * (1 + packed.minima)
    high = None
    if packed.bits == 5:
        high = _bits(blocks[..., at : at + INPUTS // 8])
        at += INPUTS // 8
    rest = blocks[..., at:]
    # Eight bits are signed: from there to an offset of 128.
    levels = rest ^ 0x80 if packed.bits == 8 else _halves(rest)
    if high is not None:
        levels = levels | (high << 4)
    minima = _floats(blocks, 2) if packed.minima else None
    return Quantized(packed, levels.reshape(len(raw), -1), _floats(blocks, 0), minima)


def _floats(blocks: np.ndarray, at: int) -> np.ndarray:
    return np.ascontiguousarray(blocks[..., at : at + 2]).view("<f2")[..., 0]


def _bits(packed: np.ndarray) -> np.ndarray:
    return np.unpackbits(packed, axis=-1, bitorder="little")


def _mask(packed: np.ndarray) -> np.ndarray:
    """A bit for each of 256 inputs: bit ``s`` of byte ``i`` is that of input ``32 * s + i``."""
    by_byte = _bits(packed).reshape(*packed.shape, 8)
    return by_byte.swapaxes(-1, -2).reshape(*packed.shape[:-1], 256)


def _halves(packed: np.ndarray) -> np.ndarray:
    """Low halves of all bytes, then the high ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _quarters(packed: np.ndarray) -> np.ndarray:
    """The lowest two bits of all bytes, then the next."""
    return np.concatenate([(packed >> shift) & 3 for shift in (0, 2, 4, 6)], axis=-1)


def _each(packed: np.ndarray, size: int, of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """What ``of`` makes of each ``size`` bytes, one after the other."""
    made = of(packed.reshape(*packed.shape[:-1], -1, size))
    return made.reshape(*packed.shape[:-1], -1)


def _q2(blocks: np.ndarray) -> _Fields:
    both, levels = blocks[..., :16], _each(blocks[..., 16:80], 32, _quarters)
    return levels, _floats(blocks, 80), -_floats(blocks, 82), _whole(both & 15), _whole(both >> 4)


def _q3(blocks: np.ndarray) -> _Fields:
    high = _mask(blocks[..., :32])
    levels = _each(blocks[..., 32:96], 32, _quarters) | (high << 2)
    scales = _halves(blocks[..., 96:104]) | (_quarters(blocks[..., 104:108]) << 4)
    return levels, _floats(blocks, 108), None, _whole(scales) - np.int8(32), None


def _q4(blocks: np.ndarray) -> _Fields:
    levels = _each(blocks[..., 16:], 32, _halves)
    return levels, _floats(blocks, 0), -_floats(blocks, 2), *_six_bits(blocks[..., 4:16])


def _q5(blocks: np.ndarray) -> _Fields:
    high = (
        _bits(blocks[..., 16:48]).reshape(*blocks.shape[:-1], 32, 8).swapaxes(-1, -2).reshape(*blocks.shape[:-1], 256)
    )
    levels = _each(blocks[..., 48:], 32, _halves) | (high << 4)
    return levels, _floats(blocks, 0), -_floats(blocks, 2), *_six_bits(blocks[..., 4:16])


def _q6(blocks: np.ndarray) -> _Fields:
    low, high = _each(blocks[..., :128], 64, _halves), _each(blocks[..., 128:192], 32, _quarters)
    return low | (high << 4), _floats(blocks, 208), None, _whole(blocks[..., 192:208]), None


def _iq4_xs(blocks: np.ndarray) -> _Fields:
    low = np.stack([blocks[..., 4:8] & 15, blocks[..., 4:8] >> 4], axis=-1).reshape(*blocks.shape[:-1], 8)
    high = np.stack([(blocks[..., 2:4] >> shift) & 3 for shift in (0, 2, 4, 6)], axis=-1).reshape(low.shape)
    levels = _each(blocks[..., 8:], 16, _halves)
    return levels, _floats(blocks, 0), None, _whole(low | (high << 4)) - np.int8(32), None


def _six_bits(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scales and minima of eight spans in twelve bytes: the last four's upper bits lie above those of the first."""
    first, second, last = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scales = np.concatenate([first & 63, (last & 15) | (first >> 6 << 4)], axis=-1)
    minima = np.concatenate([second & 63, (last >> 4) | (second >> 6 << 4)], axis=-1)
    return _whole(scales), _whole(minima)


def _whole(numbers: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(numbers).view(np.int8)


_NESTED: dict[str, Callable[[np.ndarray], _Fields]] = {
    "Q2_K": _q2,
    "Q3_K": _q3,
    "Q4_K": _q4,
    "Q5_K": _q5,
    "Q6_K": _q6,
    "IQ4_XS": _iq4_xs,
}
