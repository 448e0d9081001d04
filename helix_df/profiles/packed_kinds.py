"""How quantized matrices are kept packed in memory, and how many bytes that takes.

Owns the kinds of packing and which stored type becomes which. Doesn't know how a matrix is packed or multiplied
(``models.packed``); planning counts bytes with it.

A matrix [out, in] lies in blocks of 16 outputs x 32 inputs. A block has the levels of its numbers in 4, 5 or 8 bits,
then a float16 scale for each output, and in some kinds a float16 minimum. A number is ``scale * (level - offset)``,
or ``scale * level + minimum``: what the formats of GGUF with 32 numbers a block say themselves, so nothing is lost.
"""

from __future__ import annotations

from typing import NamedTuple

OUTPUTS = 16
INPUTS = 32


class PackedKind(NamedTuple):
    """``bits`` a level; whether each scale has a minimum beside it."""

    bits: int
    minima: bool

    @property
    def offset(self) -> int:
        """The level of zero, where there are no minima."""
        return 0 if self.minima else 1 << (self.bits - 1)

    @property
    def block_bytes(self) -> int:
        """Bytes of 16 x 32 numbers; no two kinds have the same."""
        return OUTPUTS * INPUTS * self.bits // 8 + OUTPUTS * 2 * (1 + self.minima)

    @property
    def number_bytes(self) -> float:
        """Bytes of a number, with its share of scale and minimum."""
        return self.block_bytes / (OUTPUTS * INPUTS)

    def joined(self, other: PackedKind) -> PackedKind:
        """The smallest kind that holds the numbers of both exactly."""
        return PackedKind(max(self.bits, other.bits), self.minima or other.minima)


KINDS = tuple(PackedKind(bits, minima) for bits in (4, 5, 8) for minima in (False, True))

KIND_OF_TYPE: dict[str, PackedKind] = {
    "Q4_0": PackedKind(4, False),
    "Q4_1": PackedKind(4, True),
    "Q5_0": PackedKind(5, False),
    "Q5_1": PackedKind(5, True),
    "Q8_0": PackedKind(8, False),
}
"""By the name in ``gguf_types``."""


def kind_of_bytes(block_bytes: int) -> PackedKind:
    """The kind whose blocks have so many bytes."""
    return next(kind for kind in KINDS if kind.block_bytes == block_bytes)


def fits(outputs: int, inputs: int) -> bool:
    """Whether a matrix [outputs, inputs] divides into blocks."""
    return outputs % OUTPUTS == 0 and inputs % INPUTS == 0
