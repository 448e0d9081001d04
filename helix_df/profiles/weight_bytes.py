"""Bytes that a model's weights take in memory, by how they are kept.

Owns which matrices stay packed, and in which kind: loading follows the same rules. From headers alone; reads no weight.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Literal

from helix_df.errors import ModelError
from helix_df.layers import LayerRange
from helix_df.profiles.checkpoint import read_index
from helix_df.profiles.device_shares import SHARES
from helix_df.profiles.families.registry import family_of
from helix_df.profiles.geometry import ModelGeometry, Shape, layer_parts
from helix_df.profiles.gguf_parts import read_gguf_header
from helix_df.profiles.gguf_types import GGML_TYPES
from helix_df.profiles.packed_kinds import E4M3, INPUTS, KIND_OF_TYPE, PackedKind, runs
from helix_df.profiles.quantization_config import read_quantization
from helix_df.profiles.read_geometry import locate_gguf, model_directory
from helix_df.profiles.stacked_experts import is_in_mxfp4
from helix_df.profiles.tensor_names import EMBEDDING, HEAD, gguf_name, layer_names, model_tensors
from helix_df.spec.source import ModelSource

KeptNumbers = Literal["float32", "bfloat16", "float16"]
KeptWeights = Literal["stored", "float32", "bfloat16", "float16", "int8", "int4"]
"""As a file has them, as numbers of a format, or rounded to few bits when they are loaded."""

NUMBERS: dict[KeptWeights, KeptNumbers] = {"float32": "float32", "bfloat16": "bfloat16", "float16": "float16"}
NUMBER_BYTES: dict[KeptNumbers, int] = {"float32": 4, "bfloat16": 2, "float16": 2}

STACKED = ("expert_gate_up", "expert_down")
"""Matrices of all experts of a layer."""

MULTIPLIED = frozenset(
    (
        *("qkv", "output", "gate_up", "down", "shared_gate_up", "shared_down"),
        *("query", "query_down", "query_up", "latent_down"),
    )
)
"""Matrices that inputs are multiplied with as they lie in memory, so that their numbers may have a format of their own,
or stay packed; those of experts, and of the vocabulary, may as well. Of what takes latents up, the keys' part is
multiplied with the other way round: it stays numbers."""

ROUNDED: dict[KeptWeights, PackedKind] = {"int8": PackedKind(8, False), "int4": PackedKind(4, True)}
_PLAIN = ("F32", "F16", "BF16")

_KindOf = Callable[[str], PackedKind | None]
"""The kind of a tensor by its Hugging Face name; ``None`` for one that isn't quantized."""


@dataclass(frozen=True, slots=True)
class WeightBytes:
    """Bytes of the largest layer, and of the larger of the vocabulary matrices (embedding and head).

    ``by_kind`` are those of a layer without experts and of one with, where a model has both. ``experts`` are those of
    a layer that its experts take together.
    """

    layer: float
    vocabulary: float
    by_kind: tuple[float, float] | None = None
    experts: float = 0.0

    def alone(self, with_experts: bool) -> WeightBytes:
        """Those of a model whose layers are all of one kind."""
        if self.by_kind is None:
            return self
        return WeightBytes(self.by_kind[with_experts], self.vocabulary, experts=self.experts if with_experts else 0.0)

    def times(self, count: int) -> WeightBytes:
        """What ``count`` devices hold together, each so much."""
        by_kind = None if self.by_kind is None else (count * self.by_kind[0], count * self.by_kind[1])
        return WeightBytes(count * self.layer, count * self.vocabulary, by_kind, count * self.experts)

    def of(self, geometry: ModelGeometry, layers: LayerRange) -> float:
        """Bytes of ``layers``."""
        return sum(self._by_layer(geometry)[layers.start : layers.stop])

    def in_a_row(self, geometry: ModelGeometry, pick: Callable[[Iterable[float]], float]) -> tuple[float, ...]:
        """The most or least bytes that 1, 2, 3, … layers in a row have; ``pick`` is ``max`` or ``min``."""
        sums = (0.0, *accumulate(self._by_layer(geometry)))
        return tuple(
            pick(stop - start for start, stop in zip(sums, sums[count:], strict=False))
            for count in range(1, geometry.num_layers + 1)
        )

    def _by_layer(self, geometry: ModelGeometry) -> tuple[float, ...]:
        if self.by_kind is None:
            return (self.layer,) * geometry.num_layers
        return tuple(self.by_kind[geometry.has_experts(layer)] for layer in range(geometry.num_layers))

    def read(self, geometry: ModelGeometry, tokens: float) -> float:
        """Bytes of a layer that a pass of so many tokens is expected to read; the most, where layers differ."""
        count = geometry.experts.count
        skipped = self.experts * (1 - geometry.read_experts(tokens) / count) if count else 0.0
        if self.by_kind is None:
            return self.layer - skipped
        return max(self.by_kind[False], self.by_kind[True] - skipped)


_PartBytes = Callable[[int, str, tuple[Shape, ...]], float]
"""Of a layer, a part of it and the shapes of its tensors: the bytes of that part."""


def computed_bytes(geometry: ModelGeometry, element_bytes: int) -> WeightBytes:
    """Where every weight is a number of ``element_bytes``."""
    return _number_bytes(geometry, element_bytes, element_bytes)


def _number_bytes(geometry: ModelGeometry, element_bytes: int, matrix_bytes: int) -> WeightBytes:
    """Where numbers of matrices take ``matrix_bytes``, and all others ``element_bytes``."""

    def part_bytes(_layer: int, part: str, shapes: tuple[Shape, ...]) -> float:
        return sum(map(math.prod, shapes)) * (matrix_bytes if part in MULTIPLIED or part in STACKED else element_bytes)

    return _added(geometry, geometry.layer_kinds, part_bytes, geometry.embedding_parameters * matrix_bytes)


def _added(geometry: ModelGeometry, layers: Iterable[int], part_bytes: _PartBytes, vocabulary: float) -> WeightBytes:
    """The largest of ``layers``, of each kind, from the bytes of parts."""
    largest: dict[bool, tuple[float, float]] = {}
    for layer in layers:
        each = {part: part_bytes(layer, part, shapes) for part, shapes in layer_parts(geometry, layer).items()}
        of_experts = sum(size for part, size in each.items() if part.startswith("expert_"))
        mixed = geometry.has_experts(layer)
        largest[mixed] = max(largest.get(mixed, (0.0, 0.0)), (sum(each.values()), of_experts))
    by_kind = (largest[False][0], largest[True][0]) if len(largest) > 1 else None
    experts = largest[True][1] if True in largest else 0.0
    return WeightBytes(max(total for total, _ in largest.values()), vocabulary, by_kind, experts)


def weight_bytes(
    source: ModelSource, geometry: ModelGeometry, element_bytes: int, kept: KeptWeights | None, base: Path | None = None
) -> WeightBytes:
    """Bytes of the weights of the model at ``source``.

    Args:
        source: where the model comes from.
        geometry: what ``read_geometry`` says of it.
        element_bytes: of a number that isn't packed.
        kept: how matrices are kept; ``None``: as such numbers.
        base: where relative paths start.

    Raises:
        ModelError: when weights are to stay as stored, and the file has formats that can't.
    """
    if kept is None:
        return computed_bytes(geometry, element_bytes)
    if family_of(geometry.family, str(source)).builder is not None:
        raise _not_of_this_family(kept, geometry)
    if kept in NUMBERS:
        return _number_bytes(geometry, element_bytes, NUMBER_BYTES[NUMBERS[kept]])
    if kept != "stored":
        return _packed_bytes(geometry, element_bytes, lambda name: ROUNDED[kept])
    if source.kind == "hf":
        return _coded_bytes(source, geometry, element_bytes, base)
    if source.kind == "random":
        raise _not_quantized(source)
    path = locate_gguf(source, base)
    state = os.stat(path)
    return _stored_bytes(path, state.st_mtime_ns, state.st_size, geometry, element_bytes)


def _coded_bytes(source: ModelSource, geometry: ModelGeometry, element_bytes: int, base: Path | None) -> WeightBytes:
    folder = model_directory(source, base)
    family = family_of(geometry.family, str(folder))
    quantization, stored = read_quantization(folder, family), read_index(folder)
    if quantization is None and not any(is_in_mxfp4(name, family, stored or ()) for name in model_tensors(geometry)):
        raise _not_quantized(source)
    if stored is None:
        raise ModelError("there are no weights here that could stay as they are stored", where=str(folder))

    def kind_of(name: str) -> PackedKind | None:
        if is_in_mxfp4(name, family, stored):
            return KIND_OF_TYPE["MXFP4"]
        coding = None if quantization is None else quantization.coding(name, stored)
        if coding is not None and coding.packed_kind is None:
            raise ModelError(
                "weights that are stored in this way can't stay packed",
                where=f"{folder}: {name}",
                found=coding.in_words,
                expected=f"whole numbers with a scale for a multiple of {INPUTS} inputs that lie beside each other, or "
                f"FP8 with one for a multiple of {E4M3.inputs}",
                hint="model.weights: int8 or int4 rounds them again when they are loaded",
            )
        return None if coding is None else coding.packed_kind

    return _packed_bytes(geometry, element_bytes, kind_of)


def _not_quantized(source: ModelSource) -> ModelError:
    return ModelError(
        "only quantized weights can stay as they are stored",
        where="model.weights",
        found=f"stored, of {source}",
        expected="float32 | bfloat16 | float16 | int8 | int4, or no weights: at all",
    )


def _not_of_this_family(kept: KeptWeights, geometry: ModelGeometry) -> ModelError:
    return ModelError(
        "the weights of this family can't stay packed yet",
        where="model.weights",
        found=f"{kept}, of {geometry.family}",
        expected="no weights: at all",
    )


@lru_cache(maxsize=16)
def _stored_bytes(path: Path, _changed: int, _size: int, geometry: ModelGeometry, element_bytes: int) -> WeightBytes:
    family, tensors = family_of(geometry.family, str(path)), read_gguf_header(path).tensors

    def kind_of(name: str) -> PackedKind | None:
        tensor = tensors[gguf_name(name, family)]
        stored = GGML_TYPES[tensor.ggml_type].name
        if stored not in KIND_OF_TYPE and stored not in _PLAIN:
            raise ModelError(
                "a tensor's format can't stay packed",
                where=f"{path}: {tensor.name}",
                found=stored,
                expected=" | ".join((*KIND_OF_TYPE, *_PLAIN)),
                hint="model.weights: int8 or int4 rounds it again when it is loaded",
            )
        return KIND_OF_TYPE.get(stored)

    return _packed_bytes(geometry, element_bytes, kind_of)


def _packed_bytes(geometry: ModelGeometry, element_bytes: int, kind_of: _KindOf) -> WeightBytes:
    names_of = layer_names(geometry)

    def part_bytes(layer: int, part: str, shapes: tuple[Shape, ...]) -> float:
        if part not in MULTIPLIED and part not in STACKED:
            return sum(map(math.prod, shapes)) * element_bytes
        kinds = [kind_of(f"model.layers.{layer}.{name}".format(0)) for name in names_of[part]]
        cut = geometry.shares > 1 and any(rule is not None and rule[0] == 1 for rule in SHARES[part])
        return _matrix_bytes(kinds, shapes, element_bytes, cut=cut)

    vocabulary = (geometry.vocab_size, geometry.hidden_size)
    ends = [name for name in (EMBEDDING, HEAD) if name in model_tensors(geometry)]
    largest = max(_matrix_bytes([kind_of(name)], (vocabulary,), element_bytes) for name in ends)
    return _added(geometry, range(geometry.num_layers), part_bytes, largest)


def _matrix_bytes(
    kinds: Iterable[PackedKind | None], shapes: Iterable[Shape], element_bytes: int, *, cut: bool = False
) -> float:
    """Of matrices [..., out, in] one below the other: packed if all are quantized and can lie in blocks.

    ``cut``: inputs are a share of those in the file, whose blocks stay whole.
    """
    each = list(shapes)
    numbers = sum(math.prod(shape) for shape in each)
    given = list(kinds)
    known = [kind for kind in given if kind is not None]
    if len(known) < len(given) or (cut and any(each[0][-1] % kind.inputs for kind in known)):
        return numbers * element_bytes
    if len(given) < len(each):  # which are stored as one
        each = [_below(each)]
    if runs(known, (shape[-2] for shape in each), each[0][-1]) is None:
        return numbers * element_bytes
    return sum(
        math.prod(shape[:-2]) * kind.matrix_bytes(shape[-2], shape[-1]) for kind, shape in zip(known, each, strict=True)
    )


def _below(shapes: Sequence[Shape]) -> Shape:
    """Of matrices one below the other as one."""
    return (*shapes[0][:-2], sum(shape[-2] for shape in shapes), shapes[0][-1])
