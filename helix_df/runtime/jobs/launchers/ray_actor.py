"""The actor of a worker in a Ray cluster: it starts the worker where Ray has put it, and stays with it.

It outlives the coordinator that asked for it, as the worker does. Once the worker has ended and nobody has asked for so
long that nobody will, it removes itself. Only Ray nodes and the launcher import this.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import ray

from helix_df.release import release
from helix_df.runtime.jobs.attended import Greeting
from helix_df.runtime.jobs.launchers.local import PARENT_VARIABLE
from helix_df.runtime.threads import with_threads

FOLLOW_S = 1.0
"""So long a call waits for something new."""

FORGOTTEN_S = 60.0
"""An actor whose worker has ended, and for which nobody has asked for so long, is nobody's."""

_LOOK_EVERY_S = 0.05
_PIECE_BYTES = 2**20


class WorkerActor:
    """Runs one worker at a time; its methods are called by the launcher, from wherever the coordinator is."""

    def __init__(self, group: str | None) -> None:
        self._group = group
        self._child: subprocess.Popen[bytes] | None = None
        self._arguments: list[str] = []
        self._log = Path(tempfile.mkdtemp(prefix="helix-df-ray-")) / "log"
        self._log.touch()
        self._asked_s = time.monotonic()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    async def begin(self, arguments: Sequence[str], key: str) -> tuple[Greeting, str]:
        """Start the worker, unless it runs with these arguments already; and on which host that is."""
        self._asked_s = time.monotonic()
        found = self._child is not None and self._child.poll() is None and self._arguments == list(arguments)
        if not found:
            await self.end(True)
            self._arguments = list(arguments)
            self._start(key)
        assert self._child is not None
        return Greeting(release(), self._child.pid, found), ray.util.get_node_ip_address()

    async def follow(self, seen: int) -> tuple[bytes, int, int | None]:
        """What the log has after ``seen`` bytes, how many those are then, and the exit code once there is one.

        Waits until there is something to tell, ``FOLLOW_S`` at most.
        """
        self._asked_s = time.monotonic()
        while True:
            code = None if self._child is None else self._child.poll()
            size = self._log.stat().st_size
            if size < seen:  # it was put aside
                seen = 0
            if code is not None or size > seen or time.monotonic() - self._asked_s > FOLLOW_S:
                with self._log.open("rb") as log:
                    log.seek(seen)
                    piece = log.read(_PIECE_BYTES)
                return piece, seen + len(piece), code if seen + len(piece) >= size else None
            await asyncio.sleep(_LOOK_EVERY_S)

    async def end(self, force: bool) -> None:
        """Ask the worker to end, or make it, and then wait."""
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(signal.SIGKILL if force else signal.SIGTERM)
            if force:
                self._child.wait()

    def _start(self, key: str) -> None:
        command = [sys.executable, "-m", "helix_df", *self._arguments, "--key-file", "-", "--log", str(self._log)]
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=_environment(),
            )
        assert self._child.stdin is not None
        with suppress(BrokenPipeError), self._child.stdin:
            self._child.stdin.write(key.encode())

    def _watch(self) -> None:
        while True:
            time.sleep(FOLLOW_S)
            ended = self._child is None or self._child.poll() is not None
            if ended and time.monotonic() - self._asked_s > FORGOTTEN_S:
                break
        if self._group is not None:
            with suppress(ValueError):  # another one has removed it
                ray.util.remove_placement_group(ray.util.get_placement_group(self._group))
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)


def _environment() -> dict[str, str]:
    """The worker's: it ends with this actor, and computes on as many threads as it was given cores, one at least."""
    cores = ray.get_runtime_context().get_assigned_resources().get("CPU", 0)
    return os.environ | with_threads(os.environ, max(1, int(cores))) | {PARENT_VARIABLE: str(os.getpid())}
