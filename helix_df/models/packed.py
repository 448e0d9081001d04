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
from helix_df.profiles.packed_kinds import (
    INPUTS,
    NO_POWER,
    OUTPUTS,
    PLANES,
    PackedKind,
    kind_of_bytes,
)

_GROUPS = INPUTS // GROUP
_LEVELS = OUTPUTS * GROUP


def is_packed(weight: Array) -> bool:
    """Whether a matrix is a packed one."""
    return weight.dtype in (jnp.uint8, jnp.int8)


def kind_of(weight: Array) -> PackedKind:
    """The kind of a packed matrix."""
    return kind_of_bytes(weight.shape[-1], curved=weight.dtype == jnp.int8)


def packed_outputs(weight: Array) -> int:
    """Outputs of a packed matrix."""
    return int(weight.shape[-3]) * OUTPUTS


def packed_inputs(weight: Array) -> int:
    """Inputs of a packed matrix, with those that fill its last block."""
    return int(weight.shape[-2]) * kind_of(weight).inputs


def unpack(weight: Array) -> Array:
    """Blocks [..., blocks, bytes] → float32 [..., 16, inputs], as many rows as a block has."""
    kind, there = kind_of(weight), weight.shape[:-1]
    packed = jax.lax.bitcast_convert_type(weight, jnp.uint8)
    if kind.floats:
        return _floats8(packed, kind)
    pieces = kind.inputs // INPUTS
    after = pieces * kind.level_bytes
    levels = _levels(packed[..., :after].reshape(*there, pieces, kind.level_bytes), kind)
    numbers = jnp.array(kind.curve, jnp.float32)[levels] if kind.curved else levels.astype(jnp.float32) - kind.offset
    by_span = numbers.reshape(*there, pieces, OUTPUTS, INPUTS // kind.span, kind.span)
    scales, minima = _of_spans(packed[..., after:], kind)
    values = by_span * scales[..., None]
    if minima is not None:
        values = values + minima[..., None]
    rows = jnp.moveaxis(values, -3, -5)  # [..., 16, blocks, pieces, spans, span]
    return rows.reshape(*rows.shape[:-4], -1)


def _floats8(packed: Array, kind: PackedKind) -> Array:
    """As ``unpack``, of blocks whose levels are floats."""
    size, there = OUTPUTS * kind.inputs, packed.shape[:-1]
    levels = jax.lax.bitcast_convert_type(packed[..., :size], jnp.float8_e4m3fn).astype(jnp.float32)
    scales = jax.lax.bitcast_convert_type(packed[..., size:].reshape(*there, OUTPUTS, 4), jnp.float32)
    values = levels.reshape(*there, kind.inputs, OUTPUTS) * scales[..., None, :]
    rows = jnp.moveaxis(values, -1, -3)  # [..., 16, blocks, inputs]
    return rows.reshape(*rows.shape[:-2], -1)


def _of_spans(packed: Array, kind: PackedKind) -> tuple[Array, Array | None]:
    """What follows levels → scales, and minima if there are any, float32 [..., pieces, 16, spans of a piece]."""
    size = kind.factor_bytes
    scales = _powers(packed) if kind.powers else _floats(packed[..., size : size + 2 * OUTPUTS])
    minima = _floats(packed[..., size + 2 * OUTPUTS :]) if kind.minima else None
    if not kind.nested:
        return scales[..., None, :, None], None if minima is None else minima[..., None, :, None]
    whole = packed[..., :size]
    if kind.shared_bytes:
        of_scales, of_minima = whole & 15, whole >> 4
    else:
        of_scales, of_minima = whole[..., : size // (1 + kind.minima)], whole[..., size // (1 + kind.minima) :]

    def multiplied(floats: Array, factors: Array) -> Array:
        signed = jax.lax.bitcast_convert_type(factors, jnp.int8).astype(jnp.float32)
        each = signed.reshape(*floats.shape[:-1], -1, OUTPUTS) * floats[..., None, :]  # [..., spans, 16]
        by_piece = each.reshape(*floats.shape[:-1], kind.inputs // INPUTS, -1, OUTPUTS)
        return jnp.swapaxes(by_piece, -1, -2)

    return multiplied(scales, of_scales), None if minima is None else multiplied(minima, of_minima)


def take_packed_rows(weight: Array, indices: Array) -> Array:
    """Rows ``indices`` [...] of a packed matrix → float32 [..., in], with what fills the last block; clips what is out
    of range."""
    within = jnp.clip(indices, 0, packed_outputs(weight) - 1)
    panels = unpack(weight[within // OUTPUTS])
    return jnp.take_along_axis(panels, (within % OUTPUTS)[..., None, None], axis=-2)[..., 0, :]


def packed_product(flat: Array, weight: Array) -> Array:
    """Inputs float32 [rows, in] times a packed matrix → float32 [rows, out].

    Each block of inputs is rounded to 8 bits, unless levels are floats.
    """
    lacking = packed_inputs(weight) - flat.shape[1]
    filled = jnp.pad(flat, ((0, 0), (0, lacking))) if lacking else flat
    fast = has_machine_code(kind_of(weight))
    return call_packed(filled, weight) if fast else plain_product(filled, weight)


def plain_product(flat: Array, weight: Array) -> Array:
    """``packed_product`` in XLA's operations, of inputs for whole blocks."""
    rows = unpack(weight).reshape(packed_outputs(weight), -1)
    return jnp.matmul(flat if kind_of(weight).floats else _rounded(flat), rows.T, precision="highest")


def _rounded(flat: Array) -> Array:
    blocks = flat.reshape(len(flat), -1, INPUTS)
    largest = jnp.abs(blocks).max(axis=-1, keepdims=True)
    factor = jnp.where(largest <= TINY, 0.0, 127.0 / largest)
    return (jnp.round(blocks * factor) * (largest / 127.0)).reshape(flat.shape)


def _levels(packed: Array, kind: PackedKind) -> Array:
    """[..., bytes] → uint8 [..., 16, 32]."""
    *there, _ = packed.shape
    levels, at, shift = jnp.zeros((*there, _GROUPS, _LEVELS), jnp.uint8), 0, 0
    for width in PLANES[kind.bits]:
        size, places = OUTPUTS * INPUTS * width // 8, 8 // width
        plane = packed[..., at : at + size]
        if width == 1:
            bits = plane.reshape(*there, _GROUPS, _LEVELS // 8)[..., None] >> jnp.arange(8, dtype=jnp.uint8)
            values = (bits & 1).reshape(levels.shape)
        else:
            together = plane.reshape(*there, _GROUPS // places, 1, _LEVELS)
            shifts = jnp.arange(places, dtype=jnp.uint8)[:, None] * jnp.uint8(width)
            values = ((together >> shifts) & jnp.uint8((1 << width) - 1)).reshape(levels.shape)
        levels, at, shift = levels | (values << shift), at + size, shift + width
    by_output = jnp.swapaxes(levels.reshape(*there, _GROUPS, OUTPUTS, GROUP), -3, -2)
    return by_output.reshape(*there, OUTPUTS, INPUTS)


def _floats(packed: Array) -> Array:
    """float16 in bytes [..., 32] → float32 [..., 16]."""
    pairs = packed.reshape(*packed.shape[:-1], OUTPUTS, 2)
    return jax.lax.bitcast_convert_type(pairs, jnp.float16).astype(jnp.float32)


def _powers(exponents: Array) -> Array:
    """Exponents of float32, uint8 → these scales; the two least are no normal numbers, and may count as zero."""
    bits = jnp.where(
        exponents < 2, jnp.uint32(1 << 21) << exponents.astype(jnp.uint32), (exponents.astype(jnp.uint32) - 1) << 23
    )
    scales = jax.lax.bitcast_convert_type(bits, jnp.float32)
    return jnp.where(exponents == NO_POWER, jnp.nan, scales)
