"""Number formats of the KV cache, and the bytes that they take.

Owns the formats. Of ``int8`` each head's key of a token, and its value, is 8-bit levels and a float16 scale. Doesn't
know how they are written or read (``models.kv_cache``).
"""

from __future__ import annotations

from typing import Literal

from helix_df.profiles.geometry import ModelGeometry

KvFormat = Literal["float32", "bfloat16", "float16", "int8"]

_NUMBER_BYTES: dict[KvFormat, int] = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
SCALE_BYTES = 2


def kv_token_bytes(geometry: ModelGeometry, kind: KvFormat) -> int:
    """Bytes that one token keeps in the KV cache of one layer."""
    numbers = geometry.kv_bytes_per_token_layer(_NUMBER_BYTES[kind])
    if kind != "int8":
        return numbers
    return numbers + SCALE_BYTES * geometry.cached_heads * (2 if geometry.value_width else 1)
