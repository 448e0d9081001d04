"""Bytes that a model's weights take in memory, by how they are kept.

Owns which matrices stay packed, and in which kind: loading follows the same rules. From headers alone; reads no weight.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, reduce
from pathlib import Path
from typing import Literal

from helix_df.errors import ModelError
from helix_df.profiles.checkpoint import read_index
from helix_df.profiles.families.registry import family_of
from helix_df.profiles.geometry import ModelGeometry, Shape, layer_parts
from helix_df.profiles.gguf_parts import read_gguf_header
from helix_df.profiles.gguf_types import GGML_TYPES
from helix_df.profiles.packed_kinds import INPUTS, KIND_OF_TYPE, PackedKind, fits
from helix_df.profiles.quantization_config import read_quantization
from helix_df.profiles.read_geometry import locate_gguf, model_directory
from helix_df.profiles.tensor_names import EMBEDDING, HEAD, gguf_name, layer_names, model_tensors
from helix_df.spec.source import ModelSource

KeptWeights = Literal["stored", "int8", "int4"]
"""As a file has them, or rounded when they are loaded."""

MATRICES = ("qkv", "output", "gate_up", "down")
STACKED = ("expert_gate_up", "expert_down")
"""Parts of a layer that can stay packed: matrices, and those of all experts."""

_PACKED_PARTS = frozenset((*MATRICES, *STACKED, "router", "qkv_bias", "output_bias", "query_norm", "key_norm")) | {
    "attention_norm",
    "mlp_norm",
    "attention_post_norm",
    "mlp_post_norm",
}
"""Parts of the layers that are known to be computed right beside packed ones."""

ROUNDED: dict[KeptWeights, PackedKind] = {"int8": PackedKind(8, False), "int4": PackedKind(4, True)}
_PLAIN = ("F32", "F16", "BF16")

_KindOf = Callable[[str], PackedKind | None]
"""The kind of a tensor by its Hugging Face name; ``None`` for one that isn't quantized."""


@dataclass(frozen=True, slots=True)
class WeightBytes:
    """Bytes of the largest layer, and of the larger of the vocabulary matrices (embedding and head)."""

    layer: float
    vocabulary: float

    def read(self, geometry: ModelGeometry, tokens: float) -> float:
        """Bytes of a layer that a pass of so many tokens is expected to read (``read_parameters``)."""
        return self.layer * geometry.read_parameters(tokens) / geometry.layer_parameters


def computed_bytes(geometry: ModelGeometry, element_bytes: int) -> WeightBytes:
    """Where every weight is a number of ``element_bytes``."""
    return WeightBytes(geometry.layer_parameters * element_bytes, geometry.embedding_parameters * element_bytes)


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
    require_one_device(kept, geometry.shares)
    if len(geometry.layer_kinds) > 1 or geometry.latent.rank or not _PACKED_PARTS.issuperset(layer_parts(geometry, 0)):
        raise ModelError(
            "the weights of this family can't stay packed yet",
            where="model.weights",
            found=f"{kept}, of {geometry.family}",
            expected="no weights: at all",
        )
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
    quantization = read_quantization(folder, family_of(geometry.family, str(folder)))
    if quantization is None:
        raise _not_quantized(source)
    stored = read_index(folder)
    if stored is None:
        raise ModelError("there are no weights here that could stay as they are stored", where=str(folder))

    def kind_of(name: str) -> PackedKind | None:
        coding = quantization.coding(name, stored)
        if coding is not None and coding.packed_kind is None:
            raise ModelError(
                "weights that are stored in this way can't stay packed",
                where=f"{folder}: {name}",
                found=coding.in_words,
                expected=f"whole numbers, a scale for a multiple of {INPUTS} inputs that lie beside each other",
                hint="model.weights: int8 or int4 rounds them again when they are loaded",
            )
        return None if coding is None else coding.packed_kind

    return _packed_bytes(geometry, element_bytes, kind_of)


def _not_quantized(source: ModelSource) -> ModelError:
    return ModelError(
        "only quantized weights can stay as they are stored",
        where="model.weights",
        found=f"stored, of {source}",
        expected="int8 | int4, or no weights: at all",
    )


def require_one_device(kept: KeptWeights | None, devices: int) -> None:
    """Make sure that weights which stay packed aren't to be divided among devices.

    Raises:
        ModelError: when they are.
    """
    if kept is not None and devices > 1:
        raise ModelError(
            "weights can't stay packed on nodes of several devices yet",
            where="model.weights",
            found=f"{kept}, shared by {devices} devices",
            expected="no weights: at all, or nodes of one device",
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
    def layer_bytes(layer: int) -> float:
        total = 0.0
        for part, shapes in layer_parts(geometry, layer).items():
            names = [f"model.layers.{layer}.{name}".format(0) for name in layer_names(geometry)[part]]
            packable = part in MATRICES or part in STACKED
            kinds = [kind_of(name) for name in names] if packable else [None]
            total += _matrix_bytes(kinds, shapes, element_bytes)
        return total

    vocabulary = (geometry.vocab_size, geometry.hidden_size)
    ends = [name for name in (EMBEDDING, HEAD) if name in model_tensors(geometry)]
    return WeightBytes(
        max(map(layer_bytes, range(geometry.num_layers))),
        max(_matrix_bytes([kind_of(name)], (vocabulary,), element_bytes) for name in ends),
    )


def _matrix_bytes(kinds: Iterable[PackedKind | None], shapes: Iterable[Shape], element_bytes: int) -> float:
    """Of matrices [..., out, in] one below the other: packed if all are quantized and the whole divides into blocks."""
    each = list(shapes)
    numbers = sum(math.prod(shape) for shape in each)
    given = list(kinds)
    known = [kind for kind in given if kind is not None]
    if len(known) < len(given) or not fits(sum(shape[-2] for shape in each), each[0][-1]):
        return numbers * element_bytes
    return numbers * reduce(PackedKind.joined, known).number_bytes
