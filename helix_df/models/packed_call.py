"""Products with packed weights, and with panels of numbers, as custom calls of XLA on a CPU."""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, cast

import jax
import jax.numpy as jnp
from jax import Array

from helix_df.models.machine_calls import Features, has_handler
from helix_df.models.thread_pool import used_pool
from helix_df.profiles.packed_kinds import INPUTS, OUTPUTS, PackedKind, kind_of_bytes

if TYPE_CHECKING:  # of llvmlite, which a process may lack
    from helix_df.models.machine_code import Pool


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


def call_panels(flat: Array, weight: Array, target: str | None = None) -> Array:
    """float32 [rows, in] times panels of numbers [out / 64, in, 64] → float32 [rows, out], on a CPU.

    What comes out of a row doesn't depend on what other rows there are.
    """
    shaped = partial(jax.ShapeDtypeStruct)
    made = shaped((len(flat), weight.shape[0] * weight.shape[2]), jnp.float32)
    product: Array = jax.ffi.ffi_call(target or panel_target(str(weight.dtype)), made)(weight, flat)
    return product


@cache
def has_machine_code(kind: PackedKind) -> bool:
    """Whether ``call_packed`` works in this process; compiles what it needs the first time."""
    return has_handler(packed_target(kind), partial(packed_source, kind, pool=shared_by()))


@cache
def has_panel_code(dtype: str) -> bool:
    """Whether ``call_panels`` works in this process for numbers of ``dtype``."""
    source = partial(panel_source, dtype, pool=shared_by())
    return dtype in ("float32", "bfloat16", "float16") and has_handler(panel_target(dtype), source)


def shared_by() -> Pool | None:
    """The threads that share products in this process, as machine code knows them."""
    pool = used_pool()
    if pool is None:
        return None
    from helix_df.models.machine_code import Pool

    return Pool(pool.run, pool.address, pool.pieces)


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


def panel_target(dtype: str) -> str:
    """XLA's name of the product with panels of numbers."""
    return f"helix_df_{dtype}"


def packed_source(kind: PackedKind, has: Features, pool: Pool | None = None) -> str:
    """LLVM's text of the product with weights of a kind, whose panels the threads of a ``pool`` share.

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
        return float8_source(packed_target(kind), _rows_at_once(has), pool)

    dot = dot_by_instruction if has.get("avx512vnni") else dot_by_parts
    look_up = curved_by_instruction if has.get("avx512bw") else curved_by_bits
    return handler_source(packed_target(kind), kind, dot, partial(look_up, kind.curve), pool)


def panel_source(dtype: str, has: Features, pool: Pool | None = None) -> str:
    """LLVM's text of the product with numbers of ``dtype``, whose panels the threads of a ``pool`` share.

    Raises:
        ImportError: without llvmlite.
    """
    from helix_df.models.number_code import Number, number_source

    return number_source(panel_target(dtype), cast(Number, dtype), _rows_at_once(has), pool)


def _rows_at_once(has: Features) -> tuple[int, ...]:
    """The sums of a row of inputs are four vectors of 64 bytes: with 32 such registers there is room for more rows."""
    return (4, 2, 1) if has.get("avx512f") else (1,)
