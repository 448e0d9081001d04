"""Experts that a safetensors checkpoint holds stacked: all of a layer's in one tensor, as they are or in MXFP4.

Owns which stored tensor an expert's is found in, of what shape and number format. Names and order are those of
transformers' ``GptOssExperts``; MXFP4 is that of the OCP Microscaling Formats specification (v1.0): blocks of 32
four-bit numbers with a power of two for each. Doesn't read a weight.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

from helix_df.profiles.families.family import ExpertRows, Family
from helix_df.profiles.geometry import Shape
from helix_df.profiles.quantized_matrices import Quantization
from helix_df.profiles.stored_tensors import Expected

BLOCKS, SCALES = "_blocks", "_scales"
"""What the names of a matrix in MXFP4 end in: [experts, out, in / 32, 16], two numbers a byte, the lower half first,
and [experts, out, in / 32], exponents plus 127."""

BLOCK = 32
_BYTE = ("U8",)
_EXPERT = re.compile(r"(model\.layers\.\d+\.)(.+\.experts\.)(\d+)(\..+)")


class StackedPlace(NamedTuple):
    """Where an expert's tensor lies: in ``stored``, of all experts, those outputs of ``expert`` that ``rows`` says."""

    stored: str
    expert: int
    rows: ExpertRows


def place_of(name: str, family: Family) -> StackedPlace | None:
    """Where safetensors of ``family`` hold the tensor ``name`` of one expert; None where it is one of its own."""
    match = _EXPERT.fullmatch(name)
    rows = None if match is None else family.stacked.get(f"{match[2]}{{}}{match[4]}")
    if match is None or rows is None:
        return None
    return StackedPlace(match[1] + rows.name, int(match[3]), rows)


def is_in_mxfp4(name: str, family: Family, stored: Collection[str]) -> bool:
    """Whether the tensor ``name`` is an expert's matrix that lies among ``stored`` in MXFP4."""
    place = place_of(name, family)
    return place is not None and place.stored + BLOCKS in stored


def safetensors_tensors(
    tensors: Mapping[str, Shape],
    family: Family,
    experts: int,
    stored: Collection[str],
    quantization: Quantization | None = None,
) -> dict[str, Expected]:
    """What holds ``tensors`` (shapes by name) in a checkpoint with the names ``stored``.

    By these names MXFP4 is told from numbers, and which of the modules that ``quantization`` is of are quantized.
    """
    expected: dict[str, Expected] = {}
    for name, shape in tensors.items():
        place = place_of(name, family)
        if place is None:
            expected |= {name: Expected(shape)} if quantization is None else quantization.held(name, shape, stored)
            continue
        outputs = place.rows.step * shape[0]
        if len(shape) == 1:
            expected[place.stored] = Expected((experts, outputs))
        elif is_in_mxfp4(name, family, stored):
            blocks = (experts, outputs, shape[1] // BLOCK)
            expected[place.stored + BLOCKS] = Expected((*blocks, BLOCK // 2), _BYTE)
            expected[place.stored + SCALES] = Expected(blocks, _BYTE)
        else:
            expected[place.stored] = Expected((experts, shape[1], outputs))
    return expected
