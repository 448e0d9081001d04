"""Matrices that stay packed in memory (``quantized`` says how): taken apart, and multiplied with.

Owns the two ways of a product, which give the same numbers: machine code on a CPU where ``packed_call`` can have it,
and XLA's own operations everywhere else.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from helix_df.models.packed_call import call_packed, has_machine_code
from helix_df.models.quantized import GROUP, TINY
from helix_df.profiles.packed_kinds import INPUTS, OUTPUTS, PackedKind, kind_of_bytes

_GROUPS = INPUTS // GROUP
_LEVELS = OUTPUTS * GROUP


def is_packed(weight: Array) -> bool:
    """Whether a matrix is a packed one."""
    return bool(weight.dtype == jnp.uint8)


def packed_outputs(weight: Array) -> int:
    """Outputs of a packed matrix."""
    return int(weight.shape[-3]) * OUTPUTS


def unpack(weight: Array) -> Array:
    """Blocks [..., blocks, bytes] → float32 [..., 16, blocks * 32], as many rows as a block has."""
    kind = kind_of_bytes(weight.shape[-1])
    numbers = OUTPUTS * INPUTS * kind.bits // 8
    scales = _floats(weight[..., numbers : numbers + 2 * OUTPUTS])
    values = (_levels(weight[..., :numbers], kind).astype(jnp.float32) - kind.offset) * scales[..., None]
    if kind.minima:
        values = values + _floats(weight[..., numbers + 2 * OUTPUTS :])[..., None]
    rows = jnp.swapaxes(values, -3, -2)
    return rows.reshape(*rows.shape[:-2], -1)


def take_packed_rows(weight: Array, indices: Array) -> Array:
    """Rows ``indices`` [...] of a packed matrix → float32 [..., in]; clips what is out of range."""
    within = jnp.clip(indices, 0, packed_outputs(weight) - 1)
    panels = unpack(weight[within // OUTPUTS])
    return jnp.take_along_axis(panels, (within % OUTPUTS)[..., None, None], axis=-2)[..., 0, :]


def packed_product(flat: Array, weight: Array) -> Array:
    """Inputs float32 [rows, in], each block rounded to 8 bits, times a packed matrix → float32 [rows, out]."""
    fast = has_machine_code(kind_of_bytes(weight.shape[-1]))
    return call_packed(flat, weight) if fast else plain_product(flat, weight)


def plain_product(flat: Array, weight: Array) -> Array:
    """``packed_product`` in XLA's operations."""
    rows = unpack(weight).reshape(packed_outputs(weight), -1)
    return jnp.matmul(_rounded(flat), rows.T, precision="highest")


def _rounded(flat: Array) -> Array:
    blocks = flat.reshape(len(flat), -1, INPUTS)
    largest = jnp.abs(blocks).max(axis=-1, keepdims=True)
    factor = jnp.where(largest <= TINY, 0.0, 127.0 / largest)
    return (jnp.round(blocks * factor) * (largest / 127.0)).reshape(flat.shape)


def _levels(packed: Array, kind: PackedKind) -> Array:
    """[..., bytes] → uint8 [..., 16, 32]."""
    *there, _ = packed.shape
    if kind.bits == 8:
        groups = packed.reshape(*there, _GROUPS, _LEVELS)
    else:
        low_bytes = OUTPUTS * INPUTS // 2
        both = packed[..., :low_bytes].reshape(*there, _GROUPS // 2, _LEVELS)
        groups = jnp.stack([both & 15, both >> 4], axis=-2).reshape(*there, _GROUPS, _LEVELS)
        if kind.bits == 5:
            plane = packed[..., low_bytes:].reshape(*there, _GROUPS, _LEVELS // 8)
            bits = (plane[..., None] >> jnp.arange(8, dtype=jnp.uint8)) & 1
            groups = groups | (bits.reshape(groups.shape) << 4)
    by_output = jnp.swapaxes(groups.reshape(*there, _GROUPS, OUTPUTS, GROUP), -3, -2)
    return by_output.reshape(*there, OUTPUTS, INPUTS)


def _floats(packed: Array) -> Array:
    """float16 in bytes [..., 32] → float32 [..., 16]."""
    pairs = packed.reshape(*packed.shape[:-1], OUTPUTS, 2)
    return jax.lax.bitcast_convert_type(pairs, jnp.float16).astype(jnp.float32)
