"""Quantized matrices while they are loaded: as levels and scales, from blocks or made from floats, and packed.

Owns the arithmetic of levels and the order of bytes in a packed block. Doesn't know files or products.

A packed matrix is one array, uint8 [out / 16, in / 32, bytes], whose last size tells its kind
(``profiles.packed_kinds``): each block lies as the product reads it, one after the other. In a block first come the
levels, for each four inputs the 16 outputs, for each output those four inputs; two such groups share 64 bytes, the
first in the low half of each byte, and of a plane of 2 bits four. Of the bits above, the next plane follows; one of a
single bit is a bit a level. Then come scales, then minima.

Nested kinds have the levels of eight times 32 inputs, the whole numbers of scales, those of minima, then scales and
minima. Curved ones are told by their type, int8. Scales that are powers of two are a byte each. Floats lie input by
input, the 16 outputs beside each other, as they are widened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import ml_dtypes
import numpy as np

from helix_df.profiles.packed_kinds import (
    INPUTS,
    NO_POWER,
    OUTPUTS,
    PLANES,
    POWER_BIAS,
    PackedKind,
    runs,
)

GROUP = 4
"""Inputs that lie beside each other for one output."""

TINY = 2.0**-100
"""Blocks of a product's inputs that are no larger count as zero: the inverse of their scale may be no number."""


_NO_FLOAT = np.uint8(0x7F)
"""What is no number, but for its sign."""


class Quantized(NamedTuple):
    """Numbers ``scale * (level - kind.offset)``, or with minima ``scale * level + minimum``.

    ``levels`` uint8 [out, in]; ``scales`` float16 [out, blocks], or exponents, uint8, or float32 where levels are
    floats; ``minima`` as scales, if the kind has them. Of nested ones each span's are those times ``factors``, int8
    [out, in / span], and ``minimum_factors``.
    """

    kind: PackedKind
    levels: np.ndarray
    scales: np.ndarray
    minima: np.ndarray | None
    factors: np.ndarray | None = None
    minimum_factors: np.ndarray | None = None

    def values(self) -> np.ndarray:
        """The matrix in float32."""
        by_span = _filled(self).reshape(len(self.levels), -1, self.kind.span)
        if self.kind.floats:
            numbers = by_span.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
        elif self.kind.curved:
            numbers = np.array(self.kind.curve, np.float32)[by_span]
        else:
            numbers = by_span.astype(np.float32) - np.float32(self.kind.offset)
        scales = _powers(self.scales) if self.kind.powers else self.scales
        values = numbers * _by_span(scales, self.factors)[..., None]
        if self.minima is not None:
            values += _by_span(self.minima, self.minimum_factors)[..., None]
        return np.ascontiguousarray(values.reshape(len(self.levels), -1)[:, : self.levels.shape[1]])

    def rows(self, order: np.ndarray) -> Quantized:
        """Rows in another order, or some of them."""
        return self.of_each(lambda numbers: numbers[order])

    def columns(self, start: int, stop: int) -> Quantized:
        """Some inputs, from the start of a block to the end of one, or to the last."""

        def of(numbers: np.ndarray) -> np.ndarray:
            each = self._inputs_of(numbers)
            return numbers[:, start // each : start // each + -(-(stop - start) // each)]

        return self.of_each(of)

    def followed_by(self, outputs: int, inputs: int) -> Quantized:
        """With so many more outputs and inputs, of which those in new blocks are zeros; others fill the last block."""
        width = self.levels.shape[1] + inputs

        def padded(numbers: np.ndarray) -> np.ndarray:
            lacking = -(-width // self._inputs_of(numbers)) - numbers.shape[1]
            return np.pad(numbers, ((0, outputs), (0, lacking)))

        return self.of_each(padded)

    def _inputs_of(self, numbers: np.ndarray) -> int:
        """Inputs that a number of one of the arrays is for."""
        if numbers is self.levels:
            return 1
        return self.kind.span if numbers is self.factors or numbers is self.minimum_factors else self.kind.inputs

    def of_each(self, change: Callable[[np.ndarray], np.ndarray]) -> Quantized:
        """The same kind, with something else of each array."""

        def maybe(array: np.ndarray | None) -> np.ndarray | None:
            return None if array is None else change(array)

        levels, scales = change(self.levels), change(self.scales)
        factors = maybe(self.factors), maybe(self.minimum_factors)
        return Quantized(self.kind, levels, scales, maybe(self.minima), *factors)


def _by_span(scales: np.ndarray, factors: np.ndarray | None) -> np.ndarray:
    """float32, one for each span."""
    wide = scales.astype(np.float32)
    return wide if factors is None else np.repeat(wide, factors.shape[1] // wide.shape[1], axis=1) * factors


def _filled(matrix: Quantized) -> np.ndarray:
    """Levels, with what fills the last block: zeros, where a level says so."""
    kind, inputs = matrix.kind, matrix.levels.shape[1]
    lacking = kind.blocks(inputs) * kind.inputs - inputs
    nothing = 0 if kind.minima or kind.curved else kind.offset
    return np.pad(matrix.levels, ((0, 0), (0, lacking)), constant_values=nothing) if lacking else matrix.levels


def _powers(exponents: np.ndarray) -> np.ndarray:
    """float32 scales of exponents, uint8."""
    whole = np.ldexp(np.float32(1), exponents.astype(np.int32) - POWER_BIAS)
    return np.where(exponents == NO_POWER, np.float32(np.nan), whole)


def in_runs(parts: Sequence[Quantized | None]) -> list[Quantized] | None:
    """Matrices one below the other, those of a kind that are neighbours as one (``profiles.packed_kinds.runs``).

    ``None`` where one isn't quantized, or can't lie in blocks.
    """
    given = [part for part in parts if part is not None]
    if len(given) < len(parts):
        return None
    found = runs((part.kind for part in given), (len(part.levels) for part in given), given[0].levels.shape[1])
    return None if found is None else [below(given[start:stop]) for _, start, stop in found]


def below(parts: Sequence[Quantized]) -> Quantized:
    """Matrices of a kind one below the other."""

    def of(name: str) -> np.ndarray | None:
        arrays = [getattr(part, name) for part in parts]
        return None if arrays[0] is None else np.concatenate(arrays)

    levels, scales = (np.concatenate(list(each)) for each in zip(*(part[1:3] for part in parts), strict=True))
    return Quantized(parts[0].kind, levels, scales, of("minima"), of("factors"), of("minimum_factors"))


def quantize(matrix: np.ndarray, kind: PackedKind) -> Quantized:
    """The nearest numbers of a kind that is neither nested nor curved to ``matrix`` [out, in].

    Levels go from the least to the largest of a block where there are minima, else as far to either side of zero.
    Numbers whose scale is beyond float16 become infinite.
    """
    outputs, inputs = matrix.shape
    # The last input again fills the last block: it changes neither the least nor the largest.
    filled = np.pad(matrix.astype(np.float32), ((0, 0), (0, -inputs % INPUTS)), mode="edge")
    blocks = filled.reshape(outputs, -1, INPUTS)
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
    return Quantized(kind, whole.reshape(outputs, -1)[:, :inputs], scales, minima)


def pack(matrix: Quantized) -> np.ndarray:
    """The matrix in blocks, which it fits (``PackedKind.fits``)."""
    kind, (outputs, inputs) = matrix.kind, matrix.levels.shape
    there = outputs // OUTPUTS, kind.blocks(inputs)
    if kind.floats:
        return _packed_floats(matrix, there)
    tiles = _filled(matrix).reshape(there[0], OUTPUTS, -1, INPUTS // GROUP, GROUP).transpose(0, 2, 3, 1, 4)
    levels = np.ascontiguousarray(tiles).reshape(*tiles.shape[:3], OUTPUTS * GROUP)
    parts: list[np.ndarray] = [np.concatenate(_planes(levels, kind.bits), axis=-1)]
    factors: list[np.ndarray] = [
        one.view(np.uint8) for one in (matrix.factors, matrix.minimum_factors) if one is not None
    ]
    if kind.shared_bytes:
        factors = [factors[0] | (factors[1] << 4)]
    parts += [_by_block(one, there) for one in factors]
    scales = (one for one in (matrix.scales, matrix.minima) if one is not None)
    parts += [_by_block(one if kind.powers else one.astype("<f2"), there).view(np.uint8) for one in scales]
    packed = np.concatenate([part.reshape(*there, -1) for part in parts], axis=-1)
    return packed.view(np.int8) if kind.curved else packed


def _packed_floats(matrix: Quantized, there: tuple[int, int]) -> np.ndarray:
    """Blocks of E4M3: for each input the 16 outputs, then scales, none for what is none among these numbers."""
    levels = _filled(matrix).reshape(there[0], OUTPUTS, there[1], -1)
    none = ((levels & _NO_FLOAT) == _NO_FLOAT).any(axis=-1).transpose(0, 2, 1)
    scales = matrix.scales.astype("<f4").reshape(there[0], OUTPUTS, there[1]).transpose(0, 2, 1)
    scales = np.ascontiguousarray(np.where(none, np.float32(np.nan), scales), "<f4")
    by_input = levels.transpose(0, 2, 3, 1).reshape(*there, -1)
    return np.concatenate([by_input, scales.view(np.uint8)], axis=-1)


def _planes(levels: np.ndarray, bits: int) -> list[np.ndarray]:
    """uint8 [..., groups, 64] → the bytes of each plane, [..., bytes]."""
    found, shift = [], 0
    for width in PLANES[bits]:
        values = (levels >> shift) & np.uint8((1 << width) - 1)
        if width == 1:
            plane = np.packbits(values, axis=-1, bitorder="little")
        else:
            each = 8 // width
            plane = np.zeros_like(values[..., ::each, :])
            for place in range(each):
                plane |= values[..., place::each, :] << np.uint8(place * width)
        found.append(plane.reshape(*levels.shape[:-2], -1))
        shift += width
    return found


def _by_block(numbers: np.ndarray, there: tuple[int, int]) -> np.ndarray:
    """[out, n of each block, one block after the other] → [out / 16, blocks, n * 16]."""
    panels, blocks = there
    each = numbers.reshape(panels, OUTPUTS, blocks, -1).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(each).reshape(panels, blocks, -1)
