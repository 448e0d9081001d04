"""The log of a process in a file that is bounded and kept over restarts.

What a process writes itself, and what libraries write to standard output and error, goes to one file. Once that is
full it is put aside as ``NAME.1``, what was that becomes ``NAME.2``, and so on; the oldest goes. Owns names and bounds;
doesn't know what is written.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

MOST_LOG_BYTES = 8 * 2**20
"""Of one file."""

KEPT_LOGS = 3
"""Files that were put aside, so that a process has 32 MB of logs at most, those of runs before included."""


_MOST_KINDS = 1000
"""Of lines that ``Seldom`` remembers."""


class BoundedLog(logging.StreamHandler):  # type: ignore[type-arg]  # it writes to whatever standard error is
    """Writes to standard error, and puts the file aside that it goes to, where that is ``path``, once it is full.

    A file that somebody has deleted is begun anew.
    """

    def __init__(self, path: Path, most_bytes: int = MOST_LOG_BYTES) -> None:
        super().__init__()
        self._path = path
        self._most_bytes = most_bytes

    def emit(self, record: logging.LogRecord) -> None:
        """See ``logging.Handler``; called by one thread at a time."""
        with contextlib.suppress(OSError):  # a disk that is full or read-only ends no process
            now = os.fstat(2)
            if now.st_nlink == 0 and stat.S_ISREG(now.st_mode):
                write_output_to(self._path)
        super().emit(record)
        with contextlib.suppress(OSError):
            if os.fstat(2).st_size > self._most_bytes and is_standard_error(self._path):
                put_aside(self._path)
                write_output_to(self._path)


class Seldom(logging.Filter):
    """Lets a line through every ``every_s`` seconds, of those that begin alike; the next one says how many there were.

    For what clients can cause as often as they like.
    """

    def __init__(self, every_s: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._every_s = every_s
        self._clock = clock
        self._told: dict[str, float] = {}
        self._held_back: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """See ``logging.Filter``."""
        kind, now = str(record.msg).partition("\n")[0], self._clock()
        if kind in self._told and now - self._told[kind] < self._every_s:
            self._held_back[kind] += 1
            return False
        if len(self._told) >= _MOST_KINDS:
            self._told.clear()
        self._told[kind] = now
        more = self._held_back.pop(kind, 0)
        if more:
            record.msg = f"{record.msg} (and {more} times since the last line)"
        return True


def is_standard_error(path: Path) -> bool:
    """Whether standard error goes to the file at ``path``."""
    try:
        return os.path.samestat(path.stat(), os.fstat(2))
    except OSError:
        return False


def write_output_to(path: Path) -> None:
    """Let standard output and error of this process, and of children to come, go to the end of a file.

    Raises:
        OSError: when the file can't be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
    finally:
        os.close(descriptor)


def put_aside(path: Path) -> None:
    """Make room at ``path``: what is there becomes the newest of those that are kept.

    Raises:
        OSError: when files can't be renamed.
    """
    for number in range(KEPT_LOGS, 0, -1):
        with contextlib.suppress(FileNotFoundError):
            _aside(path, number - 1).replace(_aside(path, number))


def _aside(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}") if number else path
