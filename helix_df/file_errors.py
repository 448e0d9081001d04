"""What to say where the system refuses a file: the disk is full, read-only, or belongs to somebody else.

Whoever can say more (which plan, which report) catches ``OSError`` closer to the call; this is what is left. Doesn't
know what the files are for.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from helix_df.errors import FileError, HelixError

REFUSALS: Final = {
    errno.ENOSPC: ("the disk is full", "make room there"),
    errno.EDQUOT: ("the disk quota is used up", "make room there"),
    errno.EFBIG: ("the file would be larger than the system allows", "a larger limit (`ulimit -f`)"),
    errno.EROFS: ("the file system is read-only", "a folder that can be written"),
    errno.EACCES: ("permission denied", "a folder that can be written"),
    errno.EPERM: ("permission denied", "a folder that can be written"),
    errno.ENOENT: ("there is no such file or folder, and none can be made there", "a folder that can be written"),
    errno.ENOTDIR: ("a part of the path is a file", "a folder that can be written"),
    errno.EMFILE: ("too many files are open", "a larger limit (`ulimit -n`)"),
    errno.EAGAIN: ("no more processes or threads can be started", "a larger limit (`ulimit -u`)"),
    errno.ENFILE: ("too many files are open on this machine", "ending other programs"),
}
"""By error number: what is wrong, and what would work."""

_NO_PLACES: Final = (errno.EMFILE, errno.ENFILE, errno.EAGAIN)
_PLACES: Final = "; HELIX_DF_STATE and HELIX_DF_CACHE say where helix-df keeps its files"


@contextmanager
def explained_files(where: Path | None = None) -> Iterator[None]:
    """Turn a refusal of the system into an error that says what would work, and where, if the refusal doesn't.

    Raises:
        FileError: in place of such an ``OSError``, or of one of a library's with its number; any other passes.
    """
    try:
        yield
    except HelixError:
        raise
    except Exception as error:
        explained = file_error(error, where)
        if explained is None:
            raise
        raise explained from error


def file_error(error: Exception, where: Path | None = None) -> FileError | None:
    """What to tell about a refusal; None for what isn't about files, such as a connection."""
    is_no_thread = isinstance(error, RuntimeError) and "start new thread" in str(error)  # Python gives it no number
    number = errno.EAGAIN if is_no_thread else getattr(error, "errno", None)
    if number not in REFUSALS or isinstance(error, ConnectionError):
        return None
    problem, hint = REFUSALS[number]
    is_elsewhere = number in _NO_PLACES
    place: object = getattr(error, "filename", None) or (None if is_elsewhere else where)
    places = "" if is_elsewhere else _PLACES
    return FileError(problem, where=None if place is None else str(place), found=str(error), hint=hint + places)
