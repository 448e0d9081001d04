"""Sums and gathers over the devices that share a layer, in programs that run on all of them at once.

Doesn't know what is shared: ``tensor_parallel`` says that.
"""

from __future__ import annotations

import jax
from jax import Array

AXIS = "devices"
"""Of the mesh over a node's devices."""


def summed(partial: Array) -> Array:
    """The sum of what every device has."""
    whole: Array = jax.lax.psum(partial, AXIS)  # type: ignore[no-untyped-call]
    return whole


def averaged(partial: Array) -> Array:
    """The mean of what every device has."""
    mean: Array = jax.lax.pmean(partial, AXIS)  # type: ignore[no-untyped-call]
    return mean


def side_by_side(partial: Array) -> Array:
    """What every device has, one after the other along the last axis."""
    gathered: Array = jax.lax.all_gather(partial, AXIS, axis=partial.ndim - 1, tiled=True)
    return gathered


def own_number() -> Array:
    """Which of the devices this is, from 0."""
    number: Array = jax.lax.axis_index(AXIS)
    return number
