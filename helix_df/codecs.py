"""Codecs of hidden states between workers: their names and sizes.

Owns what planning has to know of a codec. Doesn't touch numbers; ``runtime/wire/packing.py`` does.
"""

from __future__ import annotations

from typing import Literal

Codec = Literal["none", "bfloat16", "int8"]
"""``none``: as the model computes. ``bfloat16``: rounded to 8 bits of precision. ``int8``: blocks of ``BLOCK`` values,
each with a bfloat16 scale."""

BLOCK = 16
"""Values that share a scale. Residual streams have a few huge dimensions, which spoil only the block they are in."""

SCALE_BYTES = 2


def packed_bytes(values: int, element_bytes: int, codec: Codec) -> int:
    """Bytes of a hidden state of ``values`` elements, each of ``element_bytes`` before the codec."""
    match codec:
        case "none":
            return values * element_bytes
        case "bfloat16":
            return values * 2
        case "int8":
            return values + SCALE_BYTES * -(-values // BLOCK)
