"""Products with packed weights, and with those of 16-bit numbers, as custom calls of XLA on a CPU."""

from __future__ import annotations

from functools import cache, partial
from typing import cast

import jax
import jax.numpy as jnp
from jax import Array

from helix_df.models.machine_calls import Features, has_handler
from helix_df.profiles.packed_kinds import INPUTS, OUTPUTS, PackedKind, kind_of_bytes


def call_packed(flat: Array, weight: Array, target: str | None = None) -> Array:
    """float32 [rows, in] times a packed matrix → float32 [rows, out], on a CPU; by another ``target`` of XLA."""
    rows, inputs = flat.shape
    panels, _, block_bytes = weight.shape
    kind = kind_of_bytes(block_bytes, curved=weight.dtype == jnp.int8)
    shaped, pieces = partial(jax.ShapeDtypeStruct), inputs // INPUTS
    if kind.floats:
        made = shaped((rows, panels * OUTPUTS), jnp.float32)
        widened: Array = jax.ffi.ffi_call(target or packed_target(kind), made)(weight, flat)
        return widened
    product: Array = jax.ffi.ffi_call(
        target or packed_target(kind),
        (
            shaped((rows, panels * OUTPUTS), jnp.float32),
            shaped((rows, inputs), jnp.int8),
            shaped((rows, pieces, 1 + INPUTS // kind.span), jnp.float32),
        ),
    )(weight, flat, jnp.int32(0))[0]
    return product


def call_narrow(flat: Array, weight: Array, target: str | None = None) -> Array:
    """float32 [rows, in] times panels of 16-bit numbers [out / 64, in, 64] → float32 [rows, out], on a CPU."""
    shaped = partial(jax.ShapeDtypeStruct)
    made = shaped((len(flat), weight.shape[0] * weight.shape[2]), jnp.float32)
    product: Array = jax.ffi.ffi_call(target or narrow_target(str(weight.dtype)), made)(weight, flat)
    return product


@cache
def has_machine_code(kind: PackedKind) -> bool:
    """Whether ``call_packed`` works in this process; compiles what it needs the first time."""
    return has_handler(packed_target(kind), partial(packed_source, kind))


@cache
def has_narrow_code(dtype: str) -> bool:
    """Whether ``call_narrow`` works in this process for numbers of ``dtype``."""
    return dtype in ("bfloat16", "float16") and has_handler(narrow_target(dtype), partial(narrow_source, dtype))


def packed_target(kind: PackedKind) -> str:
    """XLA's name of the product with weights of a kind."""
    words = (
        ("minima", kind.minima),
        (f"{kind.span}", kind.nested),
        ("curved", kind.curved),
        ("powers", kind.powers),
        ("floats", kind.floats),
    )
    return "_".join([f"helix_df_packed_{kind.bits}", *(word for word, so in words if so)])


def narrow_target(dtype: str) -> str:
    """XLA's name of the product with 16-bit numbers."""
    return f"helix_df_{dtype}"


def packed_source(kind: PackedKind, has: Features) -> str:
    """LLVM's text of the product with weights of a kind.

    Raises:
        ImportError: without llvmlite.
    """
    from helix_df.models.float8_code import float8_source
    from helix_df.models.packed_code import (
        curved_by_bits,
        curved_by_instruction,
        dot_by_instruction,
        dot_by_parts,
        handler_source,
    )

    if kind.floats:
        return float8_source(packed_target(kind), _rows_at_once(has))

    dot = dot_by_instruction if has.get("avx512vnni") else dot_by_parts
    look_up = curved_by_instruction if has.get("avx512bw") else curved_by_bits
    return handler_source(packed_target(kind), kind, dot, partial(look_up, kind.curve))


def narrow_source(dtype: str, has: Features) -> str:
    """LLVM's text of the product with 16-bit numbers.

    Raises:
        ImportError: without llvmlite.
    """
    from helix_df.models.number_code import Narrow, number_source

    return number_source(narrow_target(dtype), cast(Narrow, dtype), _rows_at_once(has))


def _rows_at_once(has: Features) -> tuple[int, ...]:
    """The sums of a row of inputs are four vectors of 64 bytes: with 32 such registers there is room for more rows."""
    return (4, 2, 1) if has.get("avx512f") else (1,)
