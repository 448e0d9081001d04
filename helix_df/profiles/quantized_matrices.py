"""Matrices that safetensors hold in few bits: which tensors stand for one, and of what shapes and number formats.

Owns that for the codings in use: FP8 and INT8 with scales beside (compressed-tensors, and ``fp8`` as DeepSeek V3 is
published), and integers packed into words of 32 bits (compressed-tensors, AutoAWQ, AutoGPTQ). Doesn't know how a
configuration says which (``quantization_config``), or what the numbers are (``models.coded_matrices``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from helix_df.profiles.geometry import Shape
from helix_df.profiles.packed_kinds import E4M3, INPUTS, PackedKind
from helix_df.profiles.stored_tensors import Expected

Form = Literal["float8", "int8", "packed", "awq", "gptq"]
"""``float8`` and ``int8`` are one number a byte, [out, in]; ``packed`` (compressed-tensors) has words of numbers that
lie beside each other in a row; ``awq`` and ``gptq`` hold the transpose, with words along outputs or along inputs."""

WORD_BITS = 32
FLOAT8 = ("F8_E4M3",)
"""The number format of ``float8``."""

_WORDS = ("I32", "U32")
_WHOLE = ("I8", "U8", "I16", "I32", "I64")
_SCALES = ("F32", "F16", "BF16")
_WEIGHT = ".weight"
_TENSORS: Mapping[Form, str] = {
    "float8": "weight",
    "int8": "weight",
    "packed": "weight_packed",
    "awq": "qweight",
    "gptq": "qweight",
}


@dataclass(frozen=True, slots=True)
class Coding:
    """How a matrix [out, in] is stored: a number is ``scale * (level - zero)``.

    Attributes:
        form: how levels lie in memory.
        bits: of a level.
        rows, columns: outputs and inputs that share a scale; 0 for all.
        zeros: whether zeros are stored; else they are the middle of the levels.
        ordered: whether each input says which group of ``columns`` it belongs to.
        scale: the name of the scales, after the module's.
        zero_less: what has been taken off zeros before they were stored.
        symmetric: whether zeros, although stored, are all the middle of the levels.
    """

    form: Form
    bits: int
    rows: int = 0
    columns: int = 0
    zeros: bool = False
    ordered: bool = False
    scale: str = "weight_scale"
    zero_less: int = 0
    symmetric: bool = True

    @property
    def levels_name(self) -> str:
        """The tensor of levels, after the module's name."""
        return _TENSORS[self.form]

    @property
    def zeros_name(self) -> str:
        """The tensor of zeros, after the module's name."""
        return "qzeros" if self.form in ("awq", "gptq") else "weight_zero_point"

    @property
    def order_name(self) -> str:
        """The tensor of each input's group, after the module's name."""
        return "g_idx" if self.form == "gptq" else "weight_g_idx"

    @property
    def packed_kind(self) -> PackedKind | None:
        """The kind in which such a matrix stays packed in memory, if one has its levels."""
        if self.form == "float8":
            return E4M3 if self.columns % E4M3.inputs == 0 else None
        in_place = not self.ordered and self.rows in (0, 1) and self.columns % INPUTS == 0
        return PackedKind(self.bits, not self.symmetric) if in_place else None

    @property
    def in_words(self) -> str:
        """For an error: what tells it from others."""
        shared = "" if self.ordered else f", {self.rows or 'all'} x {self.columns or 'all'} of a scale"
        return f"{self.form}, {self.bits} bits{shared}{', in an order of its own' if self.ordered else ''}"

    def grid(self, shape: Shape) -> tuple[int, int]:
        """How many scales there are for the outputs and for the inputs of a matrix [out, in]."""
        outputs, inputs = shape
        return _parts(outputs, self.rows), _parts(inputs, self.columns)

    def tensors(self, shape: Shape) -> dict[str, Expected]:
        """What stands for a matrix [out, in], by the names after the module's."""
        (outputs, inputs), (rows, groups) = shape, self.grid(shape)
        grid: tuple[Shape, ...] = ((rows, groups),)
        if groups == 1:
            grid += ((rows,),)
        if rows * groups == 1:
            grid += ((),)
        held = {self.scale: Expected(grid[0], _SCALES, grid[1:])}
        if self.form in ("float8", "int8"):
            held["weight"] = Expected(shape, FLOAT8 if self.form == "float8" else ("I8",))
            zeros = Expected(grid[0], _WHOLE, grid[1:])
        elif self.form == "packed":
            held["weight_packed"] = Expected((outputs, self._words(inputs)), _WORDS)
            held["weight_shape"] = Expected((2,), _WHOLE)
            zeros = Expected((self._words(rows), groups), _WORDS)
        else:
            held[self.scale] = Expected((groups, outputs), _SCALES)
            words = (inputs, self._words(outputs)) if self.form == "awq" else (self._words(inputs), outputs)
            held["qweight"] = Expected(words, _WORDS)
            zeros = Expected((groups, self._words(outputs)), _WORDS)
        if self.zeros:
            held[self.zeros_name] = zeros
        if self.ordered or self.form == "gptq":
            held[self.order_name] = Expected((inputs,), _WHOLE)
        return held

    def _words(self, numbers: int) -> int:
        return math.ceil(numbers * self.bits / WORD_BITS)


@dataclass(frozen=True, slots=True)
class Group:
    """Modules that are stored alike: by name, by ``re:`` and a pattern that names begin with, or ``Linear`` for all."""

    targets: tuple[str, ...]
    coding: Coding


@dataclass(frozen=True, slots=True)
class Quantization:
    """What a checkpoint says of its quantized matrices.

    Attributes:
        method: its name.
        groups: how those of some modules are stored.
        unread: names after a module's of what only tells how activations or the KV cache would be rounded.
    """

    method: str
    groups: tuple[Group, ...]
    unread: frozenset[str] = frozenset()

    def coding(self, name: str, stored: Collection[str]) -> Coding | None:
        """How the matrix ``name`` lies among the tensors ``stored``; ``None``: as numbers, or not at all.

        Every format leaves some modules as they are. Those have no scales.
        """
        if not name.endswith(_WEIGHT):
            return None
        module = name.removesuffix(_WEIGHT)
        coding = next((group.coding for group in self._by_precision(module)), None)
        return coding if coding is not None and f"{module}.{coding.scale}" in stored else None

    def held(self, name: str, shape: Shape, stored: Collection[str]) -> dict[str, Expected]:
        """What holds the tensor ``name`` of this shape."""
        coding = self.coding(name, stored)
        if coding is None or len(shape) != 2:
            return {name: Expected(shape)}
        module = name.removesuffix(_WEIGHT)
        return {f"{module}.{part}": expected for part, expected in coding.tensors(shape).items()}

    def is_unread(self, name: str) -> bool:
        """Whether a stored tensor only tells how something else would be rounded."""
        return name.rpartition(".")[2] in self.unread

    def _by_precision(self, module: str) -> list[Group]:
        """The groups that a module is in; those that say so by its name first, then by patterns."""
        named = [group for group in self.groups if module in group.targets]
        alike = [group for group in self.groups if any(_matches(target, module) for target in group.targets)]
        return [*named, *alike, *(group for group in self.groups if "Linear" in group.targets)]


def _matches(target: str, module: str) -> bool:
    return target.startswith("re:") and re.match(target.removeprefix("re:"), module) is not None


def _parts(numbers: int, together: int) -> int:
    return math.ceil(numbers / together) if together else 1
