"""The next coordinator's process, which has imported what it needs and waits for its turn.

Imports are most of what a new coordinator's start takes. Owns what supervisor and process say to each other: one line,
the number of coordinators that have ended by themselves, on the standard input of the process, which ends with the
supervisor. Doesn't know when a turn comes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from helix_df.runtime.coordinator.restarts import Restarts

log = logging.getLogger("helix_df.supervisor")

STANDBY = "--standby"
"""Of the daemon's command: wait for a turn."""

_NAME = "standby"


class Standby:
    """At most one process that waits. ``command`` runs a daemon; ``lock`` is a file descriptor that it inherits."""

    def __init__(self, command: Sequence[str], lock: int) -> None:
        self._command = [*command, STANDBY]
        self._lock = lock
        self._process: subprocess.Popen[bytes] | None = None
        self._restarts = Restarts()
        self._from_s = 0.0

    @property
    def waits(self) -> bool:
        """Whether there is one."""
        return self._process is not None

    def prepare(self) -> None:
        """Have one that waits, unless the last ended by itself a short time ago."""
        now = time.monotonic()
        if self._process is not None or now < self._from_s:
            return
        self._restarts.started(_NAME, now)
        try:
            # In a group of its own: a terminal's ^C is for the supervisor to see to.
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, pass_fds=(self._lock,), process_group=0
            )
        except OSError as error:  # no process or descriptor left: later, perhaps
            log.warning("the next coordinator can't be prepared: %s", error)
            self._from_s = now + self._restarts.ended(_NAME, now)
            return
        self._process.returncode = 0  # whoever started it reaps it with all its children

    def take(self, restarts: int) -> int | None:
        """Let it begin, and give it away: its process id; ``None`` when there is none."""
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return None
        try:
            with process.stdin as line:
                line.write(b"%d\n" % restarts)
        except OSError:  # it is gone, which nobody has noticed yet
            return None
        return process.pid

    def ended(self, pid: int) -> None:
        """A child has ended, perhaps this one."""
        if self._process is None or self._process.pid != pid:
            return
        now = time.monotonic()
        wait_s = self._restarts.ended(_NAME, now)
        log.warning("the process of the next coordinator ended; another one is prepared in %g s", wait_s)
        self._from_s = now + wait_s
        self._forget()

    def drop(self) -> None:
        """Have none: what it has inherited isn't so any more."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
            self._forget()

    def _forget(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()


def wait_for_turn() -> int | None:
    """Called by the process that waits: how many coordinators have ended by themselves, once it is its turn; ``None``
    if it never will be."""
    line = sys.stdin.buffer.readline()
    return int(line) if line.endswith(b"\n") else None
