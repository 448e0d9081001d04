"""Quantized matrices while they are loaded: as levels and scales, from blocks or made from floats, and packed.

Owns the arithmetic of levels and the order of bytes in a packed block. Doesn't know files or products.

A packed matrix is one array, uint8 [out / 16, in / 32, bytes], whose last size tells its kind
(``profiles.packed_kinds``): each block lies as the product reads it, one after the other. In a block first come the
levels, for each four inputs the 16 outputs, for each output those four inputs; two such groups share 64 bytes, the
first in the low half of each byte. Of 5 bits the highest follow, a bit a level; then scales, then minima.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np

from helix_df.profiles.packed_kinds import INPUTS, OUTPUTS, PackedKind, fits

GROUP = 4
"""Inputs that lie beside each other for one output."""

TINY = 2.0**-100
"""Blocks of a product's inputs that are no larger count as zero: the inverse of their scale may be no number."""


class Quantized(NamedTuple):
    """Numbers ``scale * (level - kind.offset)``, or with minima ``scale * level + minimum``.

    ``levels`` uint8 [out, in]; ``scales`` float16 [out, in / 32], and ``minima`` if the kind has them.
    """

    kind: PackedKind
    levels: np.ndarray
    scales: np.ndarray
    minima: np.ndarray | None

    def values(self) -> np.ndarray:
        """The matrix in float32."""
        by_block = self.levels.reshape(*self.scales.shape, INPUTS).astype(np.float32) - np.float32(self.kind.offset)
        values = by_block * self.scales.astype(np.float32)[..., None]
        if self.minima is not None:
            values += self.minima.astype(np.float32)[..., None]
        return values.reshape(self.levels.shape)

    def rows(self, order: np.ndarray) -> Quantized:
        """Rows in another order."""
        minima = None if self.minima is None else self.minima[order]
        return Quantized(self.kind, self.levels[order], self.scales[order], minima)

    def as_kind(self, kind: PackedKind) -> Quantized | None:
        """The same numbers in a kind that has at least these levels; ``None`` where a minimum is no float16."""
        if kind.minima and self.minima is None:
            with np.errstate(over="ignore"):
                minima = self.scales * np.float16(-self.kind.offset)
            return Quantized(kind, self.levels, self.scales, minima) if np.isfinite(minima).all() else None
        return self._replace(kind=kind, levels=self.levels + np.uint8(kind.offset - self.kind.offset))


def join(parts: Sequence[Quantized | None]) -> Quantized | None:
    """Matrices one below the other, in the smallest kind that holds all of them exactly.

    ``None`` where one isn't quantized, or the whole doesn't divide into blocks (``profiles.packed_kinds.fits``).
    """
    given = [part for part in parts if part is not None]
    outputs = sum(len(part.levels) for part in given)
    if len(given) < len(parts) or not fits(outputs, given[0].levels.shape[1]):
        return None
    kind = reduce(PackedKind.joined, (part.kind for part in given))
    alike = [part.as_kind(kind) for part in given]
    same = [part for part in alike if part is not None]
    if len(same) < len(alike):
        return None
    minima = [part.minima for part in same if part.minima is not None]
    return Quantized(
        kind,
        np.concatenate([part.levels for part in same]),
        np.concatenate([part.scales for part in same]),
        np.concatenate(minima) if minima else None,
    )


def quantize(matrix: np.ndarray, kind: PackedKind) -> Quantized | None:
    """The nearest numbers of a kind to ``matrix`` [out, in]; ``None`` where ``in`` doesn't divide into blocks.

    Levels go from the least to the largest of a block where there are minima, else as far to either side of zero.
    Numbers whose scale is beyond float16 become infinite.
    """
    if matrix.shape[1] % INPUTS:
        return None
    blocks = matrix.astype(np.float32).reshape(len(matrix), -1, INPUTS)
    most = (1 << kind.bits) - 1
    with np.errstate(over="ignore", invalid="ignore"):
        least = blocks.min(axis=-1)
        minima = least.astype(np.float16) if kind.minima else None
        if minima is not None:
            scales = ((blocks.max(axis=-1) - minima.astype(np.float32)) / most).astype(np.float16)
            above = blocks - minima.astype(np.float32)[..., None]
        else:
            scales = (np.abs(blocks).max(axis=-1) / (most - kind.offset)).astype(np.float16)
            above = blocks
        steps = scales.astype(np.float32)[..., None]
        levels = np.rint(np.divide(above, steps, out=np.zeros_like(above), where=steps > 0)) + kind.offset
        whole = np.clip(np.nan_to_num(levels), 0, most).astype(np.uint8)
    return Quantized(kind, whole.reshape(matrix.shape), scales, minima)


def pack(matrix: Quantized) -> np.ndarray:
    """The matrix in blocks; both its sizes are multiples of a block's."""
    outputs, inputs = matrix.levels.shape
    there = outputs // OUTPUTS, inputs // INPUTS
    tiles = matrix.levels.reshape(there[0], OUTPUTS, there[1], INPUTS // GROUP, GROUP).transpose(0, 2, 3, 1, 4)
    levels = np.ascontiguousarray(tiles).reshape(*there, INPUTS // GROUP, OUTPUTS * GROUP)
    parts: list[np.ndarray] = (
        [levels] if matrix.kind.bits == 8 else [(levels[:, :, ::2] & 15) | (levels[:, :, 1::2] << 4)]
    )
    if matrix.kind.bits == 5:
        parts.append(np.packbits(levels >> 4, axis=-1, bitorder="little"))
    for numbers in (matrix.scales, matrix.minima):
        if numbers is not None:
            of_blocks = numbers.astype("<f2").reshape(there[0], OUTPUTS, there[1]).transpose(0, 2, 1)
            parts.append(np.ascontiguousarray(of_blocks).view(np.uint8))
    return np.concatenate([part.reshape(*there, -1) for part in parts], axis=-1)
