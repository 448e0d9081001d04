"""The devices that programs run on: one, or several that each have a share of everything that is large.

Owns where arrays lie and how a program of one device becomes one of all. With several, what each has of its own is one
array, what they have one after the other along its first axis; numbers, and everything else, are the same on all.
Nothing is copied: a device's memory may be full. Doesn't know what programs compute.
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

    def compiled(
        self, run: Callable[..., Any], given: Sequence[bool], made: Sequence[bool], donated: Sequence[int] = ()
    ) -> Callable[..., Any]:
        """``run`` of one device, compiled, on all at once.

        Args:
            run: takes and makes trees of arrays, a tuple of them where ``made`` has several.
            given: of each argument, whether each device has its own.
            made: the same of each result.
            donated: arguments whose memory results may take.
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

    def compiled(
        self,
        run: Callable[..., Any],
        given: Sequence[bool],
        made: Sequence[bool],
        donated: Sequence[int] = (),
    ) -> Callable[..., Any]:
        """See ``Devices``."""
        program: Callable[..., Any] = jax.jit(run, donate_argnums=donated)
        return program


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
        return jnp.zeros((self._mesh.size * shape[0], *shape[1:]), dtype, device=self._own)

    def placed(self, array: Array | np.ndarray) -> Array:
        """See ``Devices``."""
        everywhere: Array = jax.device_put(array, self.same_for_all)
        return everywhere

    def compiled(
        self, run: Callable[..., Any], given: Sequence[bool], made: Sequence[bool], donated: Sequence[int] = ()
    ) -> Callable[..., Any]:
        """See ``Devices``."""

        def everywhere(*arguments: Any) -> Any:
            specs = tuple(_specs(one) if own else _SAME for one, own in zip(arguments, given, strict=True))
            results = tuple(_OWN if own else _SAME for own in made)
            return jax.shard_map(
                run,
                mesh=self._mesh,
                in_specs=specs,
                out_specs=results if len(made) > 1 else results[0],
                check_vma=False,  # sums are the same on all, which a loop within hides
            )(*arguments)

        program: Callable[..., Any] = jax.jit(everywhere, donate_argnums=donated)
        if self._mesh.devices.flat[0].platform != "cpu":
            return program

        def one_by_one(*arguments: Any) -> Any:
            # XLA lets a CPU's device have so many programs under way and no more. Where the last device has them, the
            # others wait in a sum for a program that is never started.
            return jax.block_until_ready(program(*arguments))  # type: ignore[no-untyped-call]

        return one_by_one

    def _across(self, leaves: Sequence[Array]) -> Array:
        if not leaves[0].ndim:
            return self.placed(leaves[0])
        shape = (len(leaves) * leaves[0].shape[0], *leaves[0].shape[1:])
        array: Array = jax.make_array_from_single_device_arrays(shape, self._own, list(leaves))
        return array


def devices_of(shard: DecoderShard | SharedShard) -> tuple[Devices, tuple[DecoderShard, ...]]:
    """The devices of a shard, and what each of them computes with."""
    if isinstance(shard, SharedShard):
        return MeshDevices(shard.mesh), shard.shares
    return OneDevice(), (shard,)


def _specs(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: _OWN if leaf.ndim else _SAME, tree)
