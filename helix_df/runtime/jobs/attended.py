"""A worker of a job of another host: started here over a connection that may break, and found again over the next one.

``attend`` is what a launcher runs on a host. It starts the worker, or finds the one that runs, says so in one line, and
passes the worker's log on. Once the worker has ended it says how. When whoever asked for the worker is cut off, the
worker lives on until its coordinator has been silent for too long, and tidies up itself. Owns the folder of such
workers; doesn't know how its lines get here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from helix_df.errors import DeploymentError
from helix_df.profiles.this_device import accelerators
from helix_df.release import release
from helix_df.runtime.jobs.directory import state_folder
from helix_df.runtime.jobs.job_keys import JobKeys
from helix_df.runtime.jobs.launchers.local import VISIBLE_VARIABLE, threads_each, visible_devices
from helix_df.runtime.jobs.processes import command_line

FOLDER_VARIABLE = "HELIX_DF_ATTENDED"
"""The folder of an attended worker, which removes it when it ends by itself."""

LOOK_EVERY_S = 0.1

_PIECE_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Share:
    """What a worker has of its host: one of ``workers`` there, and ``devices`` accelerators from the ``first`` on."""

    workers: int = 1
    first: int = 0
    devices: int = 1


@dataclass(frozen=True, slots=True)
class Greeting:
    """The first line that ``attend`` prints."""

    version: str
    pid: int
    found: bool
    """Whether it ran already."""


@dataclass(frozen=True, slots=True)
class Ending:
    """The last line, on standard error: the exit code, negative for a signal, ``None`` if nobody knows it."""

    code: int | None


def job_mark(keys: JobKeys) -> str:
    """What a job's workers elsewhere are found by: from its secret, which it doesn't tell."""
    return hashlib.blake2b(keys.token.encode(), digest_size=8, person=b"attended").hexdigest()


def folder_of(job: str, node: str) -> Path:
    """Where the worker of a node of a job keeps its log and its process' number; ``job`` is any name of its own."""
    return state_folder() / "attended" / job / node


def tidy_up(folder: Path) -> None:
    """Remove what a worker that has ended leaves, and the job's folder with the last one."""
    shutil.rmtree(folder, ignore_errors=True)
    for parent in (folder.parent, folder.parent.parent):
        with contextlib.suppress(OSError):
            parent.rmdir()


def attend(folder: Path, arguments: Sequence[str], share: Share, lines: IO[bytes], out: IO[bytes]) -> Ending | None:
    """Run a worker with these arguments of ``helix-df``, and stay with it; how it ended, or ``None`` if cut off first.

    Args:
        folder: the worker's own.
        arguments: without the key, which is the first of the lines.
        share: what it has of this host.
        lines: the key as `NAME.key` has it, in one line; then ``end`` and ``kill``, which are what they say.
        out: gets the ``Greeting``, then the worker's log as it comes.

    Raises:
        DeploymentError: when it can't be started.
    """
    key = lines.readline()
    worker = _running(folder, arguments)
    found = worker is not None
    if worker is None:
        worker = _start(folder, arguments, key, _environment(share))
    _print(out, (json.dumps(asdict(Greeting(release(), worker.pid, found))) + "\n").encode())
    log = _LogTail(_log(folder), from_end=found)
    with contextlib.closing(log):
        while not worker.has_ended(LOOK_EVERY_S):
            if not _obey(worker, lines) or not _print(out, *log.pieces()):
                return None
        _print(out, *log.pieces())
    tidy_up(folder)
    return Ending(worker.code)


class _Attended:
    """A worker's process, whether a child of this one or of one before it."""

    def __init__(self, pid: int, child: subprocess.Popen[bytes] | None = None) -> None:
        self.pid = pid
        self._child = child
        self._descriptor = os.pidfd_open(pid)
        self.code: int | None = None

    def has_ended(self, timeout_s: float) -> bool:
        ended = bool(select.select([self._descriptor], [], [], timeout_s)[0])
        if ended and self._child is not None:
            self.code = self._child.wait()
        return ended

    def send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)


class _LogTail:
    """What is written to a log, which may be put aside and begun anew meanwhile."""

    def __init__(self, path: Path, *, from_end: bool) -> None:
        self._path = path
        self._file = path.open("rb")
        if from_end:
            self._file.seek(0, os.SEEK_END)

    def pieces(self) -> Iterator[bytes]:
        """Everything new."""
        yield from self._rest()
        with contextlib.suppress(OSError):
            if not os.path.samestat(self._path.stat(), os.fstat(self._file.fileno())):
                yield from self._rest()
                self._file.close()
                self._file = self._path.open("rb")
                yield from self._rest()

    def _rest(self) -> Iterator[bytes]:
        while piece := self._file.read(_PIECE_BYTES):
            yield piece

    def close(self) -> None:
        self._file.close()


def _running(folder: Path, arguments: Sequence[str]) -> _Attended | None:
    """The worker that runs in a folder with these arguments; one with others is ended."""
    try:
        document: Any = json.loads((folder / "process").read_text("utf-8"))
        pid, given = int(document["pid"]), list(document["arguments"])
        worker = _Attended(pid)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if str(_log(folder)) not in command_line(pid):  # the number is another process' by now
        return None
    if given == list(arguments):
        return worker
    worker.send(signal.SIGKILL)
    worker.has_ended(LOOK_EVERY_S)
    return None


def _start(folder: Path, arguments: Sequence[str], key: bytes, environment: Mapping[str, str]) -> _Attended:
    tidy_up(folder)
    try:
        folder.mkdir(parents=True, mode=0o700)
        command = [sys.executable, "-m", "helix_df", *arguments, "--key-file", "-", "--log", str(_log(folder))]
        with _log(folder).open("ab") as log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**environment, FOLDER_VARIABLE: str(folder)},
                start_new_session=True,  # what ends this process isn't meant for the worker
            )
        record = {"pid": child.pid, "arguments": list(arguments)}
        (folder / "process").write_text(json.dumps(record), "utf-8")
    except OSError as error:
        raise DeploymentError("the worker can't be started", where=str(folder), found=str(error)) from error
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError), child.stdin:  # it has ended already
        child.stdin.write(key)
    return _Attended(child.pid, child)


def _log(folder: Path) -> Path:
    return folder / "log"


def _environment(share: Share) -> dict[str, str]:
    """What a worker's is, beside the others of its host."""
    environment = dict(os.environ) | threads_each(os.environ, share.workers)
    visible = visible_devices(os.environ, len(accelerators()))
    own = visible[share.first : share.first + share.devices]
    if share.workers > 1 and len(own) == share.devices:
        environment[VISIBLE_VARIABLE] = ",".join(own)
    return environment


def _obey(worker: _Attended, lines: IO[bytes]) -> bool:
    """Do what is asked, if anything; whether anybody is there who may ask."""
    while select.select([lines], [], [], 0)[0]:
        match lines.readline().strip():
            case b"end":
                worker.send(signal.SIGTERM)
            case b"kill":
                worker.send(signal.SIGKILL)
            case b"":
                return False
    return True


def _print(out: IO[bytes], *pieces: bytes) -> bool:
    """Whether somebody took it."""
    try:
        for piece in pieces:
            out.write(piece)
            out.flush()
    except OSError:
        return False
    return True
