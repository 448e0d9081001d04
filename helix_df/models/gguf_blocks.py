"""Blocks of GGUF's quantized tensors that have 32 numbers each, as levels and scales.

Owns how these blocks lie in a file: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h (``block_q4_0`` and
those after it) and its ``dequantize_row_*``. Tests hold it to the gguf package.
"""

from __future__ import annotations

import numpy as np

from helix_df.models.quantized import Quantized
from helix_df.profiles.gguf_types import GgmlType
from helix_df.profiles.packed_kinds import INPUTS, KIND_OF_TYPE


def quantized_rows(raw: np.ndarray, kind: GgmlType) -> Quantized:
    """Rows of a tensor, uint8 [out, bytes], of a type in ``KIND_OF_TYPE``."""
    packed = KIND_OF_TYPE[kind.name]
    blocks = raw.reshape(len(raw), -1, kind.block_bytes)
    at = 2 * (1 + packed.minima)
    high = None
    if packed.bits == 5:
        high = np.unpackbits(blocks[..., at : at + INPUTS // 8], axis=-1, bitorder="little")
        at += INPUTS // 8
    rest = blocks[..., at:]
    # Eight bits are signed: from there to an offset of 128.
    levels = rest ^ 0x80 if packed.bits == 8 else np.concatenate([rest & 15, rest >> 4], axis=-1)
    if high is not None:
        levels = levels | (high << 4)
    minima = _floats(blocks, 2) if packed.minima else None
    return Quantized(packed, levels.reshape(len(raw), -1), _floats(blocks, 0), minima)


def _floats(blocks: np.ndarray, at: int) -> np.ndarray:
    return np.ascontiguousarray(blocks[..., at : at + 2]).view("<f2")[..., 0]
