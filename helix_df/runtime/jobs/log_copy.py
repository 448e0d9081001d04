"""The log of a worker elsewhere, copied into a file here that is bounded."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from helix_df.runtime.jobs.launchers.local import opened_log
from helix_df.runtime.log_files import MOST_LOG_BYTES, put_aside


class LogCopy:
    """Writes what comes to a file, if there is one; a disk that is full is no reason not to serve."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: IO[bytes] | None = None if path is None else opened_log(path)

    def write(self, piece: bytes) -> None:
        """Write a piece, and put the file aside once it is full."""
        if self._file is None or self._path is None or not piece:
            return
        with suppress(OSError):
            self._file.write(piece)
            self._file.flush()
            if self._file.tell() > MOST_LOG_BYTES:
                put_aside(self._path)
                self._file.close()
                self._file = opened_log(self._path)

    def __enter__(self) -> LogCopy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
