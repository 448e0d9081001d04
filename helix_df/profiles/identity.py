"""Which model lies at a source: enough to notice that it is another than a plan was made for, without its weights.

Owns the fingerprint: the geometry, a digest of all tensors' names, shapes and number formats, and one of a few bytes of
some of them, so that other weights of the same shape are noticed too. Doesn't know plans.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from helix_df.profiles.checkpoint import read_index
from helix_df.profiles.geometry import ModelGeometry
from helix_df.profiles.gguf_parts import read_gguf_header
from helix_df.profiles.hub import is_mirror
from helix_df.profiles.read_geometry import locate_gguf, model_directory, read_geometry
from helix_df.spec.source import ModelSource

SAMPLED_TENSORS = 64
SAMPLED_BYTES = 64
"""How many tensors, evenly spread over their names, are looked into, and how far: 4 KiB in all."""

_DIGITS = 32


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What is known of a model.

    ``tensors`` digests names, shapes and formats, ``sample`` some first bytes; ``None`` where there are no weights
    (random ones), or not all of them are on this machine.
    """

    geometry: ModelGeometry
    tensors: str | None = None
    sample: str | None = None


@dataclass(frozen=True, slots=True)
class _Tensor:
    """Where a tensor lies, and its shape and format in words."""

    form: str
    file: Path
    offset: int


def read_identity(source: ModelSource, geometry: ModelGeometry | None = None) -> ModelIdentity:
    """The fingerprint of the model at ``source``; ``geometry``: what ``read_geometry`` says, if the caller has it.

    Raises:
        ModelError: as ``read_geometry`` and ``read_index``.
    """
    geometry = geometry or read_geometry(source)
    tensors = _tensors(source)
    if not tensors:
        return ModelIdentity(geometry)
    if source.kind == "hf" and is_mirror(model_directory(source)):
        return ModelIdentity(geometry, _forms(tensors))  # what isn't fetched yet can't be looked into; a commit says it
    forms = _forms(tensors)
    try:
        return ModelIdentity(geometry, forms, _digest(_sampled(tensors)))
    except OSError:
        return ModelIdentity(geometry, forms)


def _forms(tensors: Mapping[str, _Tensor]) -> str:
    return _digest(f"{name} {tensor.form}\n".encode() for name, tensor in sorted(tensors.items()))


def differences(planned: ModelIdentity, found: ModelIdentity) -> list[str]:
    """What tells two models apart, in words; empty when all that both know is the same."""
    was, now = asdict(planned.geometry), asdict(found.geometry)
    told = [f"{name}: {was[name]} in the plan, {now[name]} here" for name in was if was[name] != now.get(name)]
    if told:
        return told
    if _differ(planned.tensors, found.tensors):
        return ["the tensors have other names, shapes or number formats"]
    return ["the weights are others of the same shapes"] if _differ(planned.sample, found.sample) else []


def _differ(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and one != other


def _tensors(source: ModelSource) -> Mapping[str, _Tensor] | None:
    """All tensors by name; ``None`` when some can't be seen from here."""
    if source.kind == "random":
        return None
    if source.kind == "hf":
        return _of_directory(model_directory(source))
    header = read_gguf_header(locate_gguf(source))
    return {
        name: _Tensor(f"{tensor.shape} {tensor.ggml_type}", tensor.file, tensor.offset)
        for name, tensor in header.tensors.items()
    }


def _of_directory(folder: Path) -> Mapping[str, _Tensor] | None:
    found: dict[str, _Tensor] = {}
    for name, stored in (read_index(folder) or {}).items():
        if stored.file is None or stored.offset is None:
            return None
        found[name] = _Tensor(f"{stored.shape} {stored.dtype}", stored.file, stored.offset)
    return found


def _sampled(tensors: Mapping[str, _Tensor]) -> Iterator[bytes]:
    names = sorted(tensors)
    for place in range(min(SAMPLED_TENSORS, len(names))):
        tensor = tensors[names[place * len(names) // min(SAMPLED_TENSORS, len(names))]]
        with tensor.file.open("rb") as file:
            file.seek(tensor.offset)
            yield file.read(SAMPLED_BYTES)


def _digest(parts: Iterator[bytes]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()[:_DIGITS]
