"""Fetching the tensors of some layers into the mirror of a model, and nothing else.

Owns which tensors of a file those are. Doesn't know how files are fetched (``profiles.hub_files``), or from whom.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from helix_df.layers import LayerRange
from helix_df.profiles.checkpoint import read_index
from helix_df.profiles.families.registry import family_of
from helix_df.profiles.geometry import ModelGeometry
from helix_df.profiles.gguf_parts import read_gguf_header
from helix_df.profiles.gguf_types import tensor_bytes
from helix_df.profiles.hub import is_mirror
from helix_df.profiles.hub_files import HUB, Range, Remote, fetch_parts, lacking_bytes
from helix_df.profiles.read_geometry import locate_gguf, model_directory
from helix_df.profiles.tensor_names import HEAD, gguf_tensors, in_layers, is_in_a_layer, model_tensors
from helix_df.spec.source import ModelSource

OnFetched = Callable[[int, int], None]
"""Told how many bytes of how many there are by now."""


def fetch_layers(
    source: ModelSource,
    geometry: ModelGeometry,
    layers: LayerRange,
    on_fetched: OnFetched = lambda done, total: None,
    base: Path | None = None,
    remote: Remote = HUB,
) -> None:
    """Fetch the tensors of ``layers`` that aren't on this machine yet; nothing for sources that are here whole.

    Raises:
        ModelError: when they can't be had.
    """
    if source.kind not in ("hf", "gguf"):
        return
    folder = model_directory(source, base) if source.kind == "hf" else locate_gguf(source, base).parent
    if not is_mirror(folder):
        return
    parts = parts_of(folder, geometry, layers) if source.kind == "hf" else gguf_parts(source, geometry, layers, base)
    total, done = sum(lacking_bytes(file, wanted) for file, wanted in parts.items()), 0

    def came(count: int) -> None:
        nonlocal done
        done += count
        on_fetched(done, total)

    for file, wanted in parts.items():
        fetch_parts(file, wanted, came, remote)


def gguf_parts(
    source: ModelSource, geometry: ModelGeometry, layers: LayerRange, base: Path | None = None
) -> dict[Path, list[Range]]:
    """By file, where the tensors of a GGUF model lie that ``layers`` are computed from."""
    path = locate_gguf(source, base)
    tensors = read_gguf_header(path).tensors
    held = gguf_tensors(geometry, layers, family_of(geometry.family, str(path)), tensors)
    parts: dict[Path, list[Range]] = {}
    for name in held.keys() & tensors.keys():
        tensor = tensors[name]
        parts.setdefault(tensor.file, []).append((tensor.offset, tensor.offset + tensor_bytes(tensor)))
    return parts


def parts_of(folder: Path, geometry: ModelGeometry, layers: LayerRange) -> dict[Path, list[Range]]:
    """By file, where the tensors lie that ``layers`` are computed from."""
    held = set(model_tensors(geometry, layers))
    if geometry.tie_embeddings and layers.stop == geometry.num_layers:
        held.add(HEAD)  # where it is stored all the same, it is compared with what it is tied to
    parts: dict[Path, list[Range]] = {}
    ends: dict[Path, dict[str, Range]] = {}
    for name, tensor in (read_index(folder) or {}).items():
        of_held = name in held or f"{name.rpartition('.')[0]}.weight" in held  # a quantized head is several tensors
        if tensor.file is None or not (of_held or (is_in_a_layer(name) and in_layers(name, layers))):
            continue
        if tensor.file not in ends:
            ends[tensor.file] = _tensor_parts(tensor.file)
        parts.setdefault(tensor.file, []).append(ends[tensor.file][name])
    return parts


def _tensor_parts(file: Path) -> dict[str, Range]:
    """Where each tensor of a safetensors file lies, by its header."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        described = json.loads(opened.read(length))
    begin = 8 + length
    return {
        name: (begin + entry["data_offsets"][0], begin + entry["data_offsets"][1])
        for name, entry in described.items()
        if name != "__metadata__"
    }
