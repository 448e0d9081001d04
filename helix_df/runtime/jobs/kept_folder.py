"""A job's folder that outlives its deletion: what was in it is put back while the job runs.

Without it nobody could see, change or end the job, and a second one could be started under its name. Owns what is put
back; doesn't know what the files say. The journal sees to itself, and so do logs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import dataclass, field
from pathlib import Path

from helix_df.errors import DeploymentError
from helix_df.runtime.jobs.directory import JobDirectory

MOST_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class _File:
    changed: tuple[int, int, int]
    mode: int
    content: bytes


@dataclass(slots=True)
class KeptFolder:
    """The folder of a job whose lock is the file descriptor ``lock``."""

    job: JobDirectory
    lock: int
    _files: dict[str, _File] = field(default_factory=dict)

    def look(self) -> bool:
        """Note what is there; or put it back, if the folder is gone. Returns whether it was.

        Raises:
            DeploymentError: when another run of the job has taken its place.
            OSError: when nothing can be put there.
        """
        if self.job.is_of(self.lock):
            self._note()
            return False
        self._take_the_lock()
        for name, file in self._files.items():
            path = self.job.path / name
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, file.mode), "wb") as copy:
                copy.write(file.content)
        return True

    def _note(self) -> None:
        found: dict[str, _File] = {}
        for entry in os.scandir(self.job.path):
            with contextlib.suppress(FileNotFoundError):  # gone since
                if not self._is_kept(entry):
                    continue
                status = entry.stat()
                changed = (status.st_mtime_ns, status.st_size, status.st_ino)
                known = self._files.get(entry.name)
                if known is None or known.changed != changed:
                    known = _File(changed, status.st_mode & 0o777, Path(entry.path).read_bytes())
                found[entry.name] = known
        self._files = found

    def _is_kept(self, entry: os.DirEntry[str]) -> bool:
        own = entry.name == "lock" or entry.name.startswith(self.job.journal_path.name) or entry.name.endswith(".tmp")
        return not own and entry.is_file() and entry.stat().st_size <= MOST_BYTES

    def _take_the_lock(self) -> None:
        self.job.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.job.log_dir.mkdir(exist_ok=True)
        descriptor = os.open(self.job.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.dup2(descriptor, self.lock, inheritable=False)  # the same number: daemons to come inherit this one
        except BlockingIOError:
            raise DeploymentError(
                f"the folder of job {self.job.name} was deleted, and another run of it has begun there",
                where=str(self.job.path),
            ) from None
        finally:
            os.close(descriptor)
