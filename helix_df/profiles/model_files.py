"""The files that a model consists of, for those who don't have them: names, sizes, versions, and what to read first.

Owns which files these are and that a part of one is what it was when they were listed. Doesn't know who asks, or which
tensors are in a part.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from helix_df.errors import ModelError
from helix_df.profiles.checkpoint import INDEX, SINGLE, read_weight_map
from helix_df.profiles.gguf_parts import read_gguf_header
from helix_df.profiles.hub import DESCRIBING, hub_model
from helix_df.profiles.read_geometry import locate_gguf, model_directory, resolve_path
from helix_df.spec.source import ModelSource

_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*")


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file; its first ``head`` bytes say what is in the rest. All of it, where it describes the model."""

    name: str
    size: int
    version: str
    head: int


def is_here(source: ModelSource) -> bool:
    """Whether this host has the model, makes it up, or gets it from the hub."""
    if source.kind == "hf":
        return hub_model(source.location) is not None or resolve_path(source.location, None).is_dir()
    if source.kind == "random":
        return True
    try:
        return locate_gguf(source).is_file()
    except ModelError:
        return False


def list_files(source: ModelSource) -> tuple[Path, tuple[ModelFile, ...]]:
    """The folder of a model on this host, and its files in it; those of weights that aren't here are left out.

    Raises:
        ModelError: when the model isn't here.
    """
    if source.kind == "hf":
        folder = model_directory(source)
        weights = set(read_weight_map(folder).values()) if (folder / INDEX).is_file() else {SINGLE}
        return folder, tuple(
            _file(folder / name, _safetensors_head(folder / name) if name in weights else None)
            for name in sorted(DESCRIBING | weights)
            if (folder / name).is_file()
        )
    path = locate_gguf(source)
    heads = {path: path.stat().st_size}
    for tensor in read_gguf_header(path).tensors.values():
        heads[tensor.file] = min(heads.get(tensor.file, tensor.offset), tensor.offset)
    return path.parent, tuple(_file(file, head) for file, head in sorted(heads.items()))


def read_part(folder: Path, file: ModelFile, start: int, stop: int) -> bytes:
    """Bytes of a file in ``folder``.

    Raises:
        ModelError: when there are no such bytes, or the file has changed since it was listed.
    """
    path = folder / file.name
    if not 0 <= start <= stop <= file.size:
        raise ModelError("the file has no such part", where=str(path), found=f"{start} to {stop} of {file.size}")
    try:
        with path.open("rb") as opened:
            opened.seek(start)
            data = opened.read(stop - start)
        now = _version(path)
    except OSError as error:
        raise ModelError("the model's file can't be read", where=str(path), found=str(error)) from error
    if now != file.version or len(data) != stop - start:
        raise ModelError("the file has changed since the job was started", where=str(path))
    return data


def dump_listing(files: Iterable[ModelFile]) -> bytes:
    """The list as it is sent."""
    return json.dumps([asdict(file) for file in files]).encode()


def read_listing(data: bytes) -> tuple[ModelFile, ...]:
    """A list that was sent.

    Raises:
        ModelError: when it is malformed, or a name isn't one of a plain file.
    """
    try:
        files = tuple(
            ModelFile(str(e["name"]), int(e["size"]), str(e["version"]), int(e["head"])) for e in json.loads(data)
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError("the list of the model's files is malformed", found=str(error)) from error
    for file in files:
        if not _NAME.fullmatch(file.name) or not 0 <= file.head <= file.size:
            raise ModelError("the list of the model's files has one that is none", found=str(file)[:200])
    return files


def digest_of(data: bytes | memoryview) -> str:
    """Of a part, in hex."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def listing_digest(source: ModelSource, files: Iterable[ModelFile]) -> str:
    """A name for these files in these versions."""
    return hashlib.sha256(str(source).encode() + b"\0" + dump_listing(files)).hexdigest()[:32]


def _file(path: Path, head: int | None) -> ModelFile:
    size = path.stat().st_size
    return ModelFile(path.name, size, _version(path), size if head is None else min(head, size))


def _version(path: Path) -> str:
    state = path.stat()
    return f"{state.st_size}-{state.st_mtime_ns}"


def _safetensors_head(path: Path) -> int:
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")
