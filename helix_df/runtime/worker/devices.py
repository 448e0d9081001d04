"""The devices that programs run on: one, or several that each have a share of everything that is large.

Owns where arrays lie and how a program of one device becomes one of all. With several, what each has of its own is an
array [devices, …], an entry a device; everything else is the same on all. Doesn't know what programs compute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, Sharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from helix_df.models.decoder import DecoderShard
from helix_df.models.shares import AXIS
from helix_df.models.tensor_parallel import SharedShard

_OWN, _SAME = P(AXIS), P()  # type: ignore[no-untyped-call]


class Devices(Protocol):
    """What programs need to know of the devices of a shard."""

    @property
    def same_for_all(self) -> Sharding | None:
        """Of arrays that every device has; ``None`` where there is one device."""

    def across(self, each: Sequence[Any]) -> Any:
        """Trees of arrays, one a device, as one tree."""

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """Zeros of ``shape`` for each device."""

    def placed(self, array: Array | np.ndarray) -> Array:
        """An array for all devices."""

    def program(self, run: Callable[..., Any], given: Sequence[bool], made: Sequence[bool]) -> Callable[..., Any]:
        """``run`` of one device, on all at once.

        Args:
            run: takes and makes trees of arrays, a tuple of them where ``made`` has several.
            given: of each argument, whether each device has its own.
            made: the same of each result.
        """


class OneDevice:
    """The default device."""

    same_for_all = None

    def across(self, each: Sequence[Any]) -> Any:
        """See ``Devices``."""
        (own,) = each
        return own

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """See ``Devices``."""
        return jnp.zeros(shape, dtype)

    def placed(self, array: Array | np.ndarray) -> Array:
        """See ``Devices``."""
        return jnp.asarray(array)

    def program(self, run: Callable[..., Any], given: Sequence[bool], made: Sequence[bool]) -> Callable[..., Any]:
        """See ``Devices``."""
        return run


class MeshDevices:
    """Those of a mesh of one axis, ``AXIS``."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._own = NamedSharding(mesh, _OWN)
        self.same_for_all: Sharding = NamedSharding(mesh, _SAME)

    def across(self, each: Sequence[Any]) -> Any:
        """See ``Devices``."""
        return jax.tree.map(lambda *leaves: self._across(leaves), *each)

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """See ``Devices``."""
        return jnp.zeros((self._mesh.size, *shape), dtype, device=self._own)

    def placed(self, array: Array | np.ndarray) -> Array:
        """See ``Devices``."""
        everywhere: Array = jax.device_put(array, self.same_for_all)
        return everywhere

    def program(self, run: Callable[..., Any], given: Sequence[bool], made: Sequence[bool]) -> Callable[..., Any]:
        """See ``Devices``."""

        def local(*arguments: Any) -> Any:
            own = [_entry(one) if divided else one for one, divided in zip(arguments, given, strict=True)]
            results = run(*own)
            several = results if len(made) > 1 else (results,)
            entries = [_as_entry(one) if divided else one for one, divided in zip(several, made, strict=True)]
            return tuple(entries) if len(made) > 1 else entries[0]

        specs = [_OWN if divided else _SAME for divided in made]
        everywhere: Callable[..., Any] = jax.shard_map(
            local,
            mesh=self._mesh,
            in_specs=tuple(_OWN if divided else _SAME for divided in given),
            out_specs=tuple(specs) if len(made) > 1 else specs[0],
            check_vma=False,  # sums are the same on all, which a loop within hides
        )
        return everywhere

    def _across(self, leaves: Sequence[Array]) -> Array:
        shape = (len(leaves), *leaves[0].shape)
        devices = self._mesh.devices.flat
        own = [jax.device_put(leaf[None], device) for leaf, device in zip(leaves, devices, strict=True)]
        array: Array = jax.make_array_from_single_device_arrays(shape, self._own, own)
        return array


def devices_of(shard: DecoderShard | SharedShard) -> tuple[Devices, tuple[DecoderShard, ...]]:
    """The devices of a shard, and what each of them computes with."""
    if isinstance(shard, SharedShard):
        return MeshDevices(shard.mesh), shard.shares
    return OneDevice(), (shard,)


def _entry(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], tree)


def _as_entry(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[None], tree)
