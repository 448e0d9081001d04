"""Whether a checkpoint's files hold what its configuration says: names, shapes and number formats, from headers alone.

Owns the comparison, and the header of a safetensors file (https://github.com/huggingface/safetensors#format: eight
bytes of length, then JSON). A tensor that nobody would read is as much an error as one that is missing: scales, biases,
experts and further layers change what a model computes. Doesn't read a weight.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from helix_df.errors import ModelError
from helix_df.layers import LayerRange
from helix_df.profiles.families.registry import family_of
from helix_df.profiles.geometry import ModelGeometry, Shape
from helix_df.profiles.gguf_config import DIVISORS, LONG_DIVISORS, SHORT_DIVISORS
from helix_df.profiles.gguf_header import GgufHeader, GgufTensor
from helix_df.profiles.gguf_types import GGML_TYPES, tensor_bytes
from helix_df.profiles.quantization_config import read_quantization
from helix_df.profiles.stacked_experts import safetensors_tensors
from helix_df.profiles.tensor_names import HEAD, gguf_tensors, in_layers, is_of_further_layer, model_tensors

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_LONGEST_HEADER = 100 * 2**20
_COMPUTED = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")
"""What old checkpoints store although it follows from the configuration."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """What a header says of a tensor: its shape, number format, file, and where in it the tensor's bytes begin.

    All are None while its file isn't here.
    """

    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    file: Path | None = None
    offset: int | None = None


def check_checkpoint(folder: Path, geometry: ModelGeometry, layers: LayerRange | None = None) -> None:
    """Compare what the safetensors files in ``folder`` hold of ``layers`` (default: all) with ``geometry``.

    A directory without weights passes, and so does a file that isn't here yet: a plan can be made before they are
    copied, and no worker needs all of them.

    Raises:
        ModelError: with the tensors at fault.
    """
    stored = read_index(folder)
    if stored is None:
        return
    where = str(folder / (INDEX if (folder / INDEX).is_file() else SINGLE))
    family, experts = family_of(geometry.family, where), geometry.experts.count
    quantization = read_quantization(folder, family)
    held = safetensors_tensors(model_tensors(geometry, layers), family, experts, stored, quantization)
    every = model_tensors(geometry) | {HEAD: (geometry.vocab_size, geometry.hidden_size)}
    all_names = safetensors_tensors(every, family, experts, stored, quantization).keys()
    unread = {name for name in stored.keys() - all_names if not _COMPUTED.fullmatch(name) and in_layers(name, layers)}
    if family.predicts_ahead:
        unread = {name for name in unread if not is_of_further_layer(name, geometry)}
    if quantization is not None:
        unread = {name for name in unread if not quantization.is_unread(name)}
    _check_names(sorted(held.keys() - stored.keys()), sorted(unread), where)
    for name, expected in held.items():
        _check_format(name, stored[name].dtype, expected.dtypes, where)
        _check_shape(name, stored[name].shape, expected.shapes, where)


def check_gguf(header: GgufHeader, geometry: ModelGeometry, layers: LayerRange | None = None) -> None:
    """Compare what a GGUF file holds of ``layers`` (default: all) with ``geometry``, and with the files' lengths.

    Raises:
        ModelError: with the tensors at fault.
    """
    where = str(header.path)
    sizes = {file: file.stat().st_size for file in {tensor.file for tensor in header.tensors.values()}}
    family = family_of(geometry.family, where)
    held = gguf_tensors(geometry, layers, family, header.tensors)
    all_names = {DIVISORS, SHORT_DIVISORS, LONG_DIVISORS}
    for stored in (header.tensors, ()):  # some files hold latents' matrices whole and in halves
        all_names |= gguf_tensors(geometry, None, family, stored).keys()
    unread = (name for name in header.tensors.keys() - all_names if in_layers(name, layers))
    _check_names(sorted(held.keys() - header.tensors.keys()), sorted(unread), where)
    for name, shape in held.items():
        tensor = header.tensors[name]
        _check_shape(name, tensor.shape, (shape,), where)
        _check_type(tensor, where)
        if tensor.offset + tensor_bytes(tensor) > sizes[tensor.file]:
            raise ModelError(
                "the GGUF file is cut short",
                where=str(tensor.file),
                found=f"{sizes[tensor.file]} bytes",
                expected=f"{tensor.offset + tensor_bytes(tensor)} bytes for {name}",
                hint="download the file again and compare its checksum",
            )


def read_index(folder: Path) -> dict[str, StoredTensor] | None:
    """Tensors by name in the directory ``folder``, or None when it holds neither an index nor a single file.

    Raises:
        ModelError: when an index or a header is malformed.
    """
    if (folder / INDEX).is_file():
        files = read_weight_map(folder)
        stored: dict[str, StoredTensor] = {name: StoredTensor() for name in files}
        for file in sorted(set(files.values())):
            if (folder / file).is_file():
                stored |= {name: tensor for name, tensor in read_header(folder / file) if files.get(name) == file}
        return stored
    return dict(read_header(folder / SINGLE)) if (folder / SINGLE).is_file() else None


def read_weight_map(folder: Path) -> dict[str, str]:
    """File name by tensor name, as the index says.

    Raises:
        ModelError: when the index is malformed.
    """
    path = folder / INDEX
    try:
        mapping = json.loads(path.read_text("utf-8"))["weight_map"]
        return {str(name): str(file) for name, file in mapping.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError("the index of the weights is malformed", where=str(path), found=str(error)) from error


def read_header(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    """The tensors that the safetensors file at ``path`` describes.

    Raises:
        ModelError: when the header is cut short or malformed.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _LONGEST_HEADER:
                raise ValueError(f"a header of {length} bytes")
            described: Mapping[str, Mapping[str, object]] = json.loads(file.read(length))
        for name, entry in described.items():
            if name != "__metadata__":
                yield name, _stored(entry, path, 8 + length)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError("the weights can't be read", where=str(path), found=str(error)) from error


def _stored(entry: Mapping[str, object], file: Path, data_start: int) -> StoredTensor:
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list):
        raise TypeError(f"a shape of {shape!r}")
    if not isinstance(offsets, list):
        raise TypeError(f"data offsets of {offsets!r}")
    begin = data_start + int(offsets[0])
    return StoredTensor(tuple(int(size) for size in shape), str(entry["dtype"]), file, begin)


def _check_names(missing: list[str], unread: list[str], where: str) -> None:
    if unread:
        raise ModelError(
            "the weights hold tensors that nobody would read, so the model computes something else",
            where=where,
            found=_some(unread),
            expected="the tensors of this family as config.json describes it: no scales, adapters or further layers",
        )
    if missing:
        raise ModelError("a tensor is missing from the weights", where=where, expected=_some(missing))


def _check_format(name: str, dtype: str | None, expected: tuple[str, ...], where: str) -> None:
    if dtype is not None and dtype not in expected:
        raise ModelError(
            f"the tensor {name} is stored in a format that isn't supported",
            where=where,
            found=dtype,
            expected=" | ".join(expected),
        )


def _check_type(tensor: GgufTensor, where: str) -> None:
    if tensor.ggml_type not in GGML_TYPES:
        raise ModelError(
            "this quantization isn't supported",
            where=f"{where}: {tensor.name}",
            found=f"GGML type {tensor.ggml_type}",
            expected=" | ".join(kind.name for kind in GGML_TYPES.values()),
        )


def _check_shape(name: str, found: Shape | None, possible: tuple[Shape, ...], where: str) -> None:
    if found is not None and found not in possible:
        raise ModelError(
            f"the tensor {name} doesn't fit the model's config",
            where=where,
            found=found,
            expected=" | ".join(map(str, possible)),
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
