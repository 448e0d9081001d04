"""Products with weight matrices, and how the matrices lie in memory so that the products are fast.

Owns the layouts and which product suits which. Doesn't know what a matrix is for.

``rows`` is [out, in], as checkpoints have it: right for accelerators and for many threads. ``panels`` is
[out / 64, in, 64]: 64 outputs beside each other. A CPU's general product packs the whole matrix anew for every few rows
of input, which costs three times the reading; panels lie as the product needs them, so that a few rows cost what
reading the weights once costs.

A quantized matrix stays packed in blocks (``packed``), whichever layout the others have. A matrix may have numbers of
another format than its inputs; they are widened as they are read.

On a CPU machine code multiplies, in place and on as many threads as share products (``thread_pool``): what comes out of
a row of inputs is the same on any number of threads, and beside any other rows. Where there is none, XLA multiplies,
which may write widened numbers down first, and adds up in an order of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from helix_df.models.packed import is_packed, packed_product, take_packed_rows
from helix_df.models.packed_call import call_panels, has_panel_code
from helix_df.models.reader import blank_array

Layout = Literal["rows", "panels"]

Matrix = Array | tuple[Array, ...]
"""A matrix in any layout, or several one below the other."""

PANEL = 64
"""Outputs a panel: a panel of up to 4,096 inputs fits a core's own cache, and a row of it several vectors."""

_FEWEST_ROWS = 4
"""One row takes as long as four, and longer when it is alone: a product of a matrix and a vector reads worse."""

_MOST_ROWS = 32
_MOST_INPUTS = 1 << 17
"""Input rows, and numbers in them, up to which panels are read in place; beyond, the inputs fall out of the cache and
the general product on a matrix put back into rows is faster."""


def lay_out(weight: np.ndarray, layout: Layout) -> np.ndarray:
    """``weight`` [out, in] in a layout; in rows where ``out`` isn't a multiple of a panel."""
    outputs, inputs = weight.shape
    return in_panels([weight], outputs, inputs) if has_panels(outputs, layout) else weight


def has_panels(outputs: int, layout: Layout) -> bool:
    """Whether a matrix [outputs, in] lies in panels."""
    return layout == "panels" and outputs % PANEL == 0


def in_panels(pieces: Iterable[np.ndarray], outputs: int, inputs: int) -> np.ndarray:
    """A matrix [outputs, inputs] in panels, from stretches of its rows, each of whole panels."""
    panels, at = None, 0
    for piece in pieces:
        if panels is None:
            panels = blank_array((outputs // PANEL, inputs, PANEL), piece.dtype)
        stretch = piece.reshape(-1, PANEL, inputs)
        np.copyto(panels[at : at + len(stretch)], stretch.transpose(0, 2, 1))
        at += len(stretch)
    if panels is None or at != len(panels):
        raise ValueError(f"{at} panels of {outputs // PANEL}")
    return panels


def take_rows(weight: Array, indices: Array) -> Array:
    """Rows ``indices`` [...] of a matrix [out, in] in any layout → [..., in]; clips what is out of range.

    Of a packed matrix they are float32, with what fills the last block behind them.
    """
    if is_packed(weight):
        return take_packed_rows(weight, indices)
    if weight.ndim == 2:
        return jnp.take(weight, indices, axis=0, mode="clip")
    within = jnp.clip(indices, 0, weight.shape[0] * PANEL - 1)
    return weight[within // PANEL, :, within % PANEL]


def linear(inputs: Array, weight: Matrix) -> Array:
    """``inputs`` [..., in] times the transpose of ``weight``, a matrix [out, in] in any layout → [..., out]."""
    if isinstance(weight, tuple):
        return jnp.concatenate([linear(inputs, one) for one in weight], axis=-1)
    rows = math.prod(inputs.shape[:-1])
    flat = inputs.reshape(rows, inputs.shape[-1])
    if is_packed(weight):
        product = packed_product(flat.astype(jnp.float32), weight).astype(inputs.dtype)
    elif weight.ndim == 3 and has_panel_code(str(weight.dtype)):
        product = call_panels(flat.astype(jnp.float32), weight).astype(inputs.dtype)
    else:
        given = flat if weight.dtype == inputs.dtype else flat.astype(jnp.float32)
        wide = weight.astype(given.dtype)
        product = (_by_rows(given, wide) if weight.ndim == 2 else _by_panels(given, wide)).astype(inputs.dtype)
    return product.reshape(*inputs.shape[:-1], product.shape[-1])


def _by_rows(flat: Array, weight: Array) -> Array:
    # The order of the product doesn't change the value but decides the speed on a CPU: for a few rows, the weight on
    # the left runs up to twice as fast; for one row it is the other way round.
    return flat @ weight.T if len(flat) == 1 else (weight @ flat.T).T


def _by_panels(flat: Array, weight: Array) -> Array:
    rows, inputs = flat.shape
    if rows > _MOST_ROWS or rows * inputs > _MOST_INPUTS:
        return flat @ weight.transpose(1, 0, 2).reshape(inputs, -1)
    padded = jnp.pad(flat, ((0, max(0, _FEWEST_ROWS - rows)), (0, 0)))
    each = jnp.broadcast_to(padded, (len(weight), *padded.shape))
    product = jax.lax.dot_general(each, weight, (((2,), (1,)), ((0,), (0,))))  # [panels, rows, PANEL]
    return product.transpose(1, 0, 2).reshape(len(padded), -1)[:rows]
