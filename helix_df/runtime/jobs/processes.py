"""Processes that somebody else started: whose children they are, and how to watch and end them. Reads ``/proc``.

On systems without it nothing is found. A process is held by a descriptor of the kernel's, so that a process id that
was given to another one meanwhile does no harm.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from pathlib import Path


def children_of(parent: int) -> tuple[int, ...]:
    """Ids of the processes whose parent is ``parent`` and that haven't ended."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        state, owner = _state_and_parent(int(entry.name))
        if owner == parent and state not in "ZX":
            found.append(int(entry.name))
    return tuple(sorted(found))


def command_line(pid: int) -> tuple[str, ...]:
    """The words that a process was started with; none once it is gone."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ()
    while words and not words[-1]:
        words.pop()  # a process that was given another name may have room left
    return tuple(words)


def variable_of(pid: int, name: str) -> str | None:
    """A variable of the environment that a process was started with; ``None`` if it has none such, or is gone."""
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    return dict(entry.partition("=")[::2] for entry in entries).get(name)


def _state_and_parent(pid: int) -> tuple[str, int]:
    try:
        state, owner = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
    except (OSError, ValueError):
        return "X", 0
    return state, int(owner)


class AdoptedProcess:
    """A child of ``parent`` that this process watches. Its exit code is its parent's to know: it counts as 0.

    Raises:
        ProcessLookupError: when it isn't there any more.
    """

    def __init__(self, pid: int, parent: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._descriptor = os.pidfd_open(pid)
        if _state_and_parent(pid)[1] != parent:
            os.close(self._descriptor)
            raise ProcessLookupError(f"process {pid} is another one's child")

    def poll(self) -> int | None:
        """0 once it has ended; None while it lives."""
        return self._ended(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended.

        Raises:
            TimeoutExpired: when it hasn't after ``timeout`` seconds.
        """
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return code

    def terminate(self) -> None:
        """Ask it to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Make it end."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, number)

    def _ended(self, timeout_s: float | None) -> int | None:
        if self.returncode is None:
            poller = select.poll()
            poller.register(self._descriptor, select.POLLIN)
            if poller.poll(None if timeout_s is None else max(0.0, 1000 * timeout_s)):
                os.close(self._descriptor)
                self.returncode = 0
        return self.returncode
