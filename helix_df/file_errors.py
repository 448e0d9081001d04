"""What to say where the system refuses a file: the disk is full, read-only, or belongs to somebody else.

Whoever can say more (which plan, which report) catches ``OSError`` closer to the call; this is what is left. Doesn't
know what the files are for.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from helix_df.errors import FileError

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
    errno.ENFILE: ("too many files are open on this machine", "ending other programs"),
}
"""By error number: what is wrong, and what would work."""

_PLACES: Final = "; HELIX_DF_STATE and HELIX_DF_CACHE say where helix-df keeps its files"


@contextmanager
def explained_files() -> Iterator[None]:
    """Turn a refusal of the file system into an error that says what would work.

    Raises:
        FileError: in place of such an ``OSError``; any other passes.
    """
    try:
        yield
    except OSError as error:
        explained = file_error(error)
        if explained is None:
            raise
        raise explained from error


def file_error(error: OSError) -> FileError | None:
    """What to tell about a refusal; None for what isn't about files, such as a connection."""
    if error.errno not in REFUSALS or isinstance(error, ConnectionError):
        return None
    problem, hint = REFUSALS[error.errno]
    return FileError(problem, where=error.filename and str(error.filename), found=str(error), hint=hint + _PLACES)
