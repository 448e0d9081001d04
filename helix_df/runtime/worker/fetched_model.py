"""A model that isn't on a worker's host, fetched from the coordinator: what describes it, and tensors of some layers.

They lie in a mirror in the cache, which is there again after a break or a restart: only what is missing is asked for.
Owns the mirror and that each part is what it should be. Doesn't know how the coordinator is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from helix_df.errors import ModelError
from helix_df.layers import LayerRange
from helix_df.models.fetched_layers import fetch_layers
from helix_df.paths import cache_folder
from helix_df.profiles.hub import is_mirror, mark_mirror
from helix_df.profiles.hub_files import PartRecord, Range, begin_with, is_begun, locked
from helix_df.profiles.model_files import ModelFile, digest_of, listing_digest, read_listing
from helix_df.profiles.read_geometry import read_geometry
from helix_df.runtime.wire.message_kinds import PROBE_BYTES
from helix_df.runtime.wire.messages import FilePart, Welcome
from helix_df.spec.source import ModelSource

Ask = Callable[[str, int, int], FilePart]
"""Asks the coordinator for bytes of a file: its name, the first and the one after the last."""

Report = Callable[[str, float, str], None]

ATTEMPTS = 3
"""To get a part whose digest is right."""


@dataclass(frozen=True, slots=True)
class MovedModel:
    """Where a job's model is on this host, in place of where the job says."""

    said: str
    local: str

    def here(self, welcome: Welcome) -> Welcome:
        """A welcome to what is here; one to another model stays as it is."""
        model: Mapping[str, object] = welcome.job["model"]
        if model["source"] != self.said:
            return welcome
        return replace(welcome, job={**welcome.job, "model": {**model, "source": self.local}})


class _AskedFiles:
    """The coordinator as whom files are fetched from; each file's URL is its name."""

    def __init__(self, ask: Ask, files: Mapping[str, ModelFile]) -> None:
        self._ask = ask
        self._files = files

    def version(self, url: str) -> tuple[str | None, int]:
        file = self._files[url]
        return file.version, file.size

    def read(self, url: str, part: Range, size: int) -> bytes:
        starts = range(part[0], part[1], PROBE_BYTES)
        return b"".join(self._piece(url, start, min(start + PROBE_BYTES, part[1])) for start in starts)

    def _piece(self, name: str, start: int, stop: int) -> bytes:
        for _ in range(ATTEMPTS):
            found = self._ask(name, start, stop)
            if found.version != self._files[name].version:
                raise ModelError(
                    "the model has changed while it was fetched", where=name, hint="start this worker again"
                )
            if len(found.payload) == stop - start and digest_of(found.payload) == found.digest:
                return bytes(found.payload)
        raise ModelError("a part of the model came damaged each time", where=name, found=f"{start} to {stop}")


def fetch_model(source: ModelSource, layers: LayerRange, ask: Ask, report: Report) -> ModelSource:
    """Fetch what ``layers`` of the coordinator's model at ``source`` need, and say where it is here.

    Raises:
        ModelError: when the coordinator can't give it, or it isn't what it says.
    """
    report("loading", 0.0, f"{source} isn't on this host: the coordinator gives it")
    files = read_listing(bytes(ask("", 0, 0).payload))
    remote = _AskedFiles(ask, {file.name: file for file in files})
    folder = cache_folder("models") / listing_digest(source, files)
    if not is_mirror(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / "mirror"):
            for file in files:
                _begin(folder / file.name, file, remote)
            mark_mirror(folder, [file.name for file in files])
    local = _source_in(folder, source, files)

    def fetched(done: int, total: int) -> None:
        report("loading", done / total, f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB from the coordinator")

    fetch_layers(local, read_geometry(local), layers, fetched, remote=remote)
    return local


def _begin(path: Path, file: ModelFile, remote: _AskedFiles) -> None:
    if not is_begun(path):
        head = remote.read(file.name, (0, file.head), file.size)
        begin_with(path, head, PartRecord(file.name, file.version, file.size, ((0, file.head),)))


def _source_in(folder: Path, source: ModelSource, files: tuple[ModelFile, ...]) -> ModelSource:
    """The model in its mirror. A GGUF model is its first part, which is first by name, too."""
    if source.kind == "hf":
        return ModelSource("hf", str(folder))
    return ModelSource("gguf", str(folder / min(file.name for file in files)))
