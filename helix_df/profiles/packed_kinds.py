"""How quantized matrices are kept packed in memory, and how many bytes that takes.

Owns the kinds of packing and which stored type becomes which. Doesn't know how a matrix is packed or multiplied
(``models.packed``); planning counts bytes with it.

A matrix [out, in] lies in blocks of 16 outputs x 32 inputs. A block has the levels of its numbers in 4, 5 or 8 bits,
then a float16 scale for each output, and in some kinds a float16 minimum. A number is ``scale * (level - offset)``,
or ``scale * level + minimum``: what the formats of GGUF with 32 numbers a block say themselves, so nothing is lost.

Of *nested* kinds, GGUF's K-quants, a block has 256 inputs: levels of 2 to 6 bits, for each 16 or 32 inputs a whole
number of 8 bits, and a float16 that all of these multiply; the same for minima. *Curved* levels are places in a table
of 16 whole numbers. Scales that are *powers* of two are exponents of 8 bits. That is what these formats say, too, so
nothing is lost.

Levels that are *floats* are numbers of E4M3 (arXiv 2209.05433), in blocks of 128 inputs with a float32 scale for each
output.

A matrix whose inputs aren't a multiple of a block's ends in one that is filled up; what fills it is multiplied with
zeros.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import groupby
from typing import NamedTuple

OUTPUTS = 16
INPUTS = 32
NESTED_INPUTS = 256
FLOAT_INPUTS = 128

PLANES = {2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 8: (8,)}
"""Levels of so many bits lie as planes of so many, the lowest first."""

IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""``kvalues_iq4nl`` of https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h."""

FP4 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
"""Twice the numbers of E2M1 (OCP Microscaling Formats specification v1.0, 5.3.3)."""

POWER_BIAS = 128
"""Taken off the exponents of scales: 127 (the same, 5.4.1), and one for the numbers that stand in ``FP4`` twice."""

NO_POWER = 255
"""The exponent of a scale that is no number (the same)."""


class PackedKind(NamedTuple):
    """``bits`` a level; whether each scale has a minimum beside it; how many inputs share them; nested; the table in
    which levels are places, if they are; whether scales are powers of two; whether levels are floats."""

    bits: int
    minima: bool
    span: int = INPUTS
    nested: bool = False
    curve: tuple[int, ...] = ()
    powers: bool = False
    floats: bool = False

    @property
    def curved(self) -> bool:
        """Whether levels are places in a table."""
        return bool(self.curve)

    @property
    def offset(self) -> int:
        """The level of zero, where there are no minima; of curved ones, in the table plus as much."""
        return 0 if self.minima or self.floats else 128 if self.curved else 1 << (self.bits - 1)

    @property
    def inputs(self) -> int:
        """Inputs of a block."""
        return NESTED_INPUTS if self.nested else FLOAT_INPUTS if self.floats else INPUTS

    @property
    def shared_bytes(self) -> bool:
        """Whether a span's whole numbers, of scale and minimum, are the halves of one byte."""
        return self.nested and self.minima and self.span < INPUTS

    @property
    def level_bytes(self) -> int:
        """Bytes of the levels of 16 x 32 numbers."""
        return OUTPUTS * INPUTS * self.bits // 8

    @property
    def factor_bytes(self) -> int:
        """Bytes of a block's whole numbers."""
        spans = OUTPUTS * self.inputs // self.span
        return spans * (1 if self.shared_bytes else 1 + self.minima) if self.nested else 0

    @property
    def block_bytes(self) -> int:
        """Bytes of a block; no two kinds have the same, but for one that is curved."""
        scales = OUTPUTS * (1 if self.powers else 4 if self.floats else 2 * (1 + self.minima))
        return self.inputs // INPUTS * self.level_bytes + self.factor_bytes + scales

    @property
    def number_bytes(self) -> float:
        """Bytes of a number, with its share of scales and minima."""
        return self.block_bytes / (OUTPUTS * self.inputs)

    def blocks(self, inputs: int) -> int:
        """Blocks beside each other for so many inputs; the last may not be full."""
        return math.ceil(inputs / self.inputs)

    def matrix_bytes(self, outputs: int, inputs: int) -> float:
        """Bytes of a matrix [outputs, inputs], which may be some rows of one that fits."""
        return outputs / OUTPUTS * self.blocks(inputs) * self.block_bytes

    def fits(self, outputs: int, inputs: int) -> bool:
        """Whether a matrix [outputs, inputs] can lie in blocks; nested ones are full."""
        return outputs % OUTPUTS == 0 and (not self.nested or inputs % self.inputs == 0)


KIND_OF_TYPE: dict[str, PackedKind] = {
    "Q4_0": PackedKind(4, False),
    "Q4_1": PackedKind(4, True),
    "Q5_0": PackedKind(5, False),
    "Q5_1": PackedKind(5, True),
    "Q8_0": PackedKind(8, False),
    "Q2_K": PackedKind(2, True, 16, nested=True),
    "Q3_K": PackedKind(3, False, 16, nested=True),
    "Q4_K": PackedKind(4, True, nested=True),
    "Q5_K": PackedKind(5, True, nested=True),
    "Q6_K": PackedKind(6, False, 16, nested=True),
    "IQ4_NL": PackedKind(4, False, curve=IQ4),
    "IQ4_XS": PackedKind(4, False, nested=True, curve=IQ4),
    "MXFP4": PackedKind(4, False, curve=FP4, powers=True),
}
"""By the name in ``gguf_types``."""

E4M3 = PackedKind(8, False, FLOAT_INPUTS, floats=True)
KINDS = (*KIND_OF_TYPE.values(), PackedKind(8, True), E4M3)


def kind_of_bytes(block_bytes: int, *, curved: bool) -> PackedKind:
    """The kind whose blocks have so many bytes."""
    return next(kind for kind in KINDS if kind.block_bytes == block_bytes and kind.curved == curved)


def runs(kinds: Iterable[PackedKind], outputs: Iterable[int], inputs: int) -> list[tuple[PackedKind, int, int]] | None:
    """How matrices one below the other are packed: neighbours of a kind as one.

    Returns:
        kind, first matrix and the one after the last, of each run; ``None`` where one can't lie in blocks.
    """
    each = list(zip(kinds, outputs, strict=True))
    found, start = [], 0
    for kind, group in groupby(each, key=lambda one: one[0]):
        together = [rows for _, rows in group]
        if not kind.fits(sum(together), inputs):
            return None
        found.append((kind, start, start + len(together)))
        start += len(together)
    return found
