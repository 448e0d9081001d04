"""Hidden states as bytes on the wire and back, by codec.

Owns the numbers behind ``helix_df.codecs``. Doesn't know messages or links. Every token is packed by itself, so what a
token becomes doesn't depend on who shares its message.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from helix_df.codecs import BLOCK, SCALE_BYTES, Codec, packed_bytes


def pack(tensor: np.ndarray, codec: Codec) -> np.ndarray:
    """The bytes of ``tensor`` [T, hidden]: without a codec a view of it, else an array of their own.

    ``int8`` gives bfloat16 scales [T, blocks], then int8 values [T, hidden]: a block's scale is its largest magnitude
    over 127, rounded up, and a value is off by at most half a scale.
    """
    match codec:
        case "none":
            packed = np.ascontiguousarray(tensor)
        case "bfloat16":
            packed = tensor.astype(dtype_of("bfloat16"))
        case "int8":
            packed = _pack_int8(tensor)
    return packed.view(np.uint8).reshape(-1)


def unpack(packed: Any, dtype: str, shape: tuple[int, ...], codec: Codec) -> np.ndarray:
    """The tensor of a buffer that ``pack`` filled; without a codec a view of the buffer.

    Raises:
        ValueError: when the buffer's length doesn't fit the shape, or the shape the codec.
    """
    match codec:
        case "none":
            return np.frombuffer(packed, dtype=dtype_of(dtype)).reshape(shape)
        case "bfloat16":
            return np.frombuffer(packed, dtype=dtype_of("bfloat16")).reshape(shape).astype(dtype_of(dtype))
        case "int8":
            tokens, hidden = shape
            return _unpack_int8(packed, tokens, hidden).astype(dtype_of(dtype), copy=False)
    raise ValueError(f"an unknown codec, {codec}")


@cache
def name_of(dtype: np.dtype[Any]) -> str:
    """The name of a dtype; numpy itself takes microseconds to find it."""
    return dtype.name


def dtype_of(name: str) -> np.dtype[Any]:
    """The dtype of a name, bfloat16 included."""
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes

    kind: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return kind


_EXPONENTS = {"bfloat16": np.uint16(0x7F80), "float16": np.uint16(0x7C00)}
"""All bits of an exponent: set in NaN and infinity alone."""


def all_finite(tensor: np.ndarray) -> bool:
    """Whether every number of a float tensor is finite."""
    exponent = _EXPONENTS.get(name_of(tensor.dtype))
    if exponent is None:
        return bool(np.isfinite(tensor).all())
    # numpy knows no bfloat16, and float16 only slowly.
    return not bool(((tensor.view(np.uint16) & exponent) == exponent).any())


def _pack_int8(tensor: np.ndarray) -> np.ndarray:
    tokens, hidden = tensor.shape
    blocks = _in_blocks(tensor.astype(np.float32, copy=False))
    high_bits = _round_up(np.max(np.abs(blocks), axis=2) / np.float32(127))
    scales = _from_high_bits(high_bits)
    # What isn't finite makes its block's scale so, and the block comes back as NaN.
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        inverse = np.where(scales > 0, 1 / scales, 0)
        values = np.clip(np.rint(blocks * inverse[:, :, None]), -127, 127).astype(np.int8)
    flat = values.reshape(tokens, -1)[:, :hidden]
    return np.concatenate([high_bits.view(np.uint8).reshape(-1), flat.view(np.uint8).reshape(-1)])


def _unpack_int8(packed: Any, tokens: int, hidden: int) -> np.ndarray:
    scale_bytes = tokens * SCALE_BYTES * -(-hidden // BLOCK)
    found = memoryview(packed).nbytes
    if found != tokens * packed_bytes(hidden, 4, "int8"):
        raise ValueError(f"{found} bytes for {tokens} tokens of {hidden} int8 values")
    scales = _from_high_bits(np.frombuffer(packed, np.uint16, count=scale_bytes // SCALE_BYTES).reshape(tokens, -1))
    values = np.frombuffer(packed, np.int8, offset=scale_bytes).reshape(tokens, hidden)
    with np.errstate(invalid="ignore", over="ignore"):
        tensor: np.ndarray = (_in_blocks(values) * scales[:, :, None]).reshape(tokens, -1)[:, :hidden]
    return tensor


def _round_up(scales: np.ndarray) -> np.ndarray:
    """The upper half of each positive float32, rounded up: a bfloat16 that cuts nothing off."""
    upper = (scales.astype(np.float32, copy=False).view(np.uint32) + np.uint32(0xFFFF)) >> np.uint32(16)
    return np.where(np.isnan(scales), np.uint16(0x7FC0), upper.astype(np.uint16))


def _from_high_bits(upper: np.ndarray) -> np.ndarray:
    scales: np.ndarray = (upper.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return scales


def _in_blocks(tensor: np.ndarray) -> np.ndarray:
    """[T, hidden] → [T, blocks, BLOCK], the last block filled up with zeros."""
    tokens, hidden = tensor.shape
    short = -hidden % BLOCK
    if short:
        tensor = np.pad(tensor, ((0, 0), (0, short)))
    return tensor.reshape(tokens, -1, BLOCK)
