"""The job's model for workers whose hosts don't have it: parts of its files, as they ask for them.

Owns what is answered. Doesn't know nodes, or how messages travel.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from helix_df.errors import ModelError
from helix_df.profiles.model_files import ModelFile, digest_of, dump_listing, list_files, read_part
from helix_df.runtime.wire.message_kinds import PROBE_BYTES
from helix_df.runtime.wire.messages import FilePart, FileWanted
from helix_df.spec.source import ModelSource


class ModelServer:
    """Parts of the files of the model at ``source``. Its methods may be called by any thread."""

    def __init__(self, source: ModelSource) -> None:
        self._source = source

    @cached_property
    def _listed(self) -> tuple[Path, dict[str, ModelFile]]:
        folder, files = list_files(self._source)
        return folder, {file.name: file for file in files}

    def part(self, wanted: FileWanted) -> FilePart:
        """What a worker wants.

        Raises:
            ModelError: when there is no such file or part, or it has changed.
        """
        folder, files = self._listed
        if not wanted.name:
            return _part(wanted, "", dump_listing(files.values()))
        file = files.get(wanted.name)
        if file is None:
            raise ModelError("the model has no such file", where=str(folder), found=wanted.name)
        if wanted.stop - wanted.start > PROBE_BYTES:
            raise ModelError("this part is too large", where=wanted.name, expected=f"at most {PROBE_BYTES} bytes")
        return _part(wanted, file.version, read_part(folder, file, wanted.start, wanted.stop))


def _part(wanted: FileWanted, version: str, data: bytes) -> FilePart:
    return FilePart(wanted.name, wanted.start, version, digest_of(data), data, wanted.life)
