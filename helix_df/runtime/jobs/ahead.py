"""The processes of a job that begin before its plan is there: they import what they need, and wait for it.

``python -m helix_df.runtime.jobs.ahead`` becomes who watches over the job's daemon, with a child that becomes the first
daemon, which has one that becomes the workers (``fork_server``). Each hears what it is to do over a socket that is its
standard input, as one message of JSON with the folder's lock; where that socket is closed instead, or the parent dies
before, nothing is left. Whoever begins a job has the other end (``Ahead``). Imports little before its children run.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from helix_df.marks import mark
from helix_df.runtime.jobs.own_process import ROOM, end_with_parent, rename
from helix_df.runtime.threads import with_large_pages

MODULE = "helix_df.runtime.jobs.ahead"
_DAEMON = "daemon"
Begun = subprocess.Popen[bytes]
_MOST_BYTES = 1 << 16


class WaitingProcess:
    """The end of a socket to a process that waits for its message."""

    def __init__(self, channel: socket.socket, pid: int) -> None:
        self._channel = channel
        self.pid = pid

    def tell(self, lock: int, message: dict[str, Any]) -> bool:
        """Let it begin, with a descriptor that holds the folder's lock; whether it still could hear that."""
        try:
            with self._channel as channel:
                socket.send_fds(channel, [json.dumps(message).encode()], [lock])
        except OSError:
            return False
        return True


class Ahead:
    """The processes of a job that is about to begin; what they say before they know its log goes to ``output``, if any.

    Linux only: elsewhere nothing is started before its time.
    """

    def __init__(self, output: IO[bytes] | None = None) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._told: WaitingProcess | None = None
        if sys.platform != "linux":
            return
        with contextlib.suppress(OSError):  # none left: they are started when it is time
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", MODULE, ROOM],
                    stdin=theirs.fileno(),
                    stdout=output or subprocess.DEVNULL,
                    stderr=output or subprocess.DEVNULL,
                    start_new_session=True,
                    env={**os.environ, **with_large_pages(os.environ)},  # forks have no say in that any more
                )
            self._told = WaitingProcess(ours, self.process.pid)

    def begin(self, lock: int, folder: Path, options: Sequence[str], daemon: Sequence[str]) -> Begun | None:
        """The process that watches over the job's daemon, from now on; ``None`` if it has to be started.

        Args:
            lock: a descriptor that holds the folder's lock.
            folder: the job's.
            options: of the process.
            daemon: the daemon's command, without the folder.
        """
        told, self._told = self._told, None
        if told is None or self.process is None:
            return None
        if told.tell(lock, {"folder": str(folder), "options": list(options), "daemon": list(daemon)}):
            return self.process
        self.process.wait()
        return None

    def drop(self) -> None:
        """Nothing begins, if nothing has; those that follow each other end with the first."""
        if self._told is not None and self.process is not None:
            self._told = None
            self.process.kill()
            self.process.wait()


def main(arguments: Sequence[str]) -> int:
    """Be one of the processes, as the first argument says; returns its exit code."""
    return _daemon() if arguments[:1] == [_DAEMON] else _supervisor()


def _supervisor() -> int:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        child = subprocess.Popen([sys.executable, "-m", MODULE, _DAEMON, ROOM], stdin=theirs.fileno())
        child.returncode = 0  # it is reaped with all others
    from helix_df.runtime.jobs import supervisor

    heard = _heard()
    if heard is None:
        return 0  # the child goes when this process does
    lock, message = heard
    folder: str = message["folder"]
    said = [folder, "--lock", str(lock), *message["options"], "--", *message["daemon"]]
    rename([sys.executable, "-m", supervisor.__name__, *said])
    _write_to_log(folder)
    return supervisor.main(said, WaitingProcess(ours, child.pid))


def _daemon() -> int:
    end_with_parent()
    from helix_df.runtime.jobs import fork_server

    forks = fork_server.begin()
    from helix_df.runtime.jobs import daemon

    parts = daemon.real_parts(forks)
    mark("coordinator's imports")
    heard = _heard()
    if heard is None:
        return 0
    lock, message = heard
    end_with_parent(False)  # its workers outlive whoever watches over it, and so does a daemon
    said = [message["folder"], "--lock", str(lock), *message["options"]]
    rename([sys.executable, "-m", daemon.__name__, *said])
    _write_to_log(message["folder"])
    return daemon.main(said, lambda: parts)


def _heard() -> tuple[int, dict[str, Any]] | None:
    """The message on standard input, with the lock that came with it; ``None`` if none will come."""
    with socket.socket(fileno=os.dup(0)) as channel:
        text, descriptors, _, _ = socket.recv_fds(channel, _MOST_BYTES, 1)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.close(nowhere)
    if not text or not descriptors:
        return None
    (lock,) = descriptors
    message: dict[str, Any] = json.loads(text)
    return lock, message


def _write_to_log(folder: str) -> None:
    from helix_df.runtime.jobs.directory import JobDirectory
    from helix_df.runtime.log_files import write_output_to

    with contextlib.suppress(OSError):
        write_output_to(JobDirectory(Path(folder)).log_path())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
