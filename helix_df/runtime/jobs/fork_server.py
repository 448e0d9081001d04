"""A process that has imported what workers need, and becomes one whenever it is told to.

Importing is most of what a worker's start takes, and this way it is done once for all of a machine. The process forks
before it has any thread or device. Owns the orders, each a message of JSON on a socket between parent and child, and
the processes that come of them, which are the parent's own children: the one in between ends at once, and its orphan
comes to the parent, which adopts it for that moment. Linux only. Doesn't know when workers are started.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from helix_df.marks import mark
from helix_df.runtime.jobs.own_process import adopt_orphans, end_with_parent, rename
from helix_df.runtime.log_files import write_output_to

log = logging.getLogger(__name__)

COMMON = (
    "helix_df.graph.compile",
    "helix_df.plan.plan",
    "helix_df.runtime.log_lines",
    "helix_df.runtime.wire.door",
    "helix_df.runtime.wire.framing",
    "helix_df.runtime.wire.transport",
)
"""Modules that a coordinator imports, too."""

WORKERS = (
    "helix_df.runtime.worker.build",
    "helix_df.runtime.worker.shell",
    "helix_df.cli.main",
    "helix_df.cli.worker",
    "helix_df.runtime.jobs.attended",
    "helix_df.runtime.wire.own_host",
    "helix_df.runtime.jobs.job_keys",
)
"""Modules that a worker imports."""

_MOST_BYTES = 1 << 17
"""Of a message: an environment is most of it."""

_LOOK_S = 0.002
_WAIT_S = 0.01
_END_S = 5.0
"""Seconds that a process which is only beginning gets to say who it is."""


class ForkServer:
    """The parent's end. ``channel`` reaches the process ``pid``, a child of this one."""

    def __init__(self, channel: socket.socket, pid: int) -> None:
        self._channel = channel
        self._pid: int | None = pid
        self._waiting: dict[int, ForkedProcess] = {}
        self._orders = 0
        channel.setblocking(False)

    @property
    def is_open(self) -> bool:
        """Whether it can start processes."""
        return self._pid is not None

    def start(
        self, arguments: Sequence[str], changes: Mapping[str, str], output: Path | None, cores: Sequence[int] = ()
    ) -> ForkedProcess | None:
        """A process like ``python -m helix_df ARGUMENTS``; ``None`` where none comes of it.

        Args:
            arguments: of the command.
            changes: what its environment has beside this one's.
            output: the file that its output is added to; nowhere if None.
            cores: those that it stays on; any if there are none.
        """
        self._orders += 1
        order = {
            "number": self._orders,
            "parent": os.getpid(),
            "arguments": list(arguments),
            "changes": dict(changes),
            "output": None if output is None else str(output),
            "cores": list(cores),
        }
        if not self.is_open or not adopt_orphans():
            return None
        try:
            self._channel.send(json.dumps(order).encode())
        except OSError as error:
            log.warning("workers are started without what is imported already: %s", error)
            self.end()
            return None
        started = self._waiting[self._orders] = ForkedProcess(self)
        return started

    def hear(self) -> None:
        """Take down what processes have come of orders so far."""
        while self._waiting:
            try:
                text = self._channel.recv(_MOST_BYTES)
            except BlockingIOError:
                return
            except OSError:
                text = b""
            if not text:
                self._forget()
                return
            said = json.loads(text)
            self._waiting.pop(int(said["number"])).pid = int(said["pid"])
        adopt_orphans(False)

    def end_when_done(self) -> None:
        """Have it end once all orders so far are carried out."""
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_WR)

    def end(self) -> None:
        """Make it end; orders that it hasn't carried out come to nothing. Once is enough."""
        self._kill()
        deadline = time.monotonic() + _END_S
        while self._waiting and time.monotonic() < deadline:
            self.hear()  # until whoever is about to say something has said it
            time.sleep(_LOOK_S)
        self._forget()

    def _kill(self) -> None:
        pid, self._pid = self._pid, None
        if pid is not None:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def _forget(self) -> None:
        self._kill()
        for process in self._waiting.values():
            process.returncode = 1
        self._waiting.clear()
        self._channel.close()
        adopt_orphans(False)

    def look(self) -> None:
        """Take note of its end."""
        if self._pid is not None and os.waitpid(self._pid, os.WNOHANG)[0]:
            self._pid = None
            self.hear()


class ForkedProcess:
    """As much of ``subprocess.Popen`` as workers need, for a child that a server has started, or is about to."""

    def __init__(self, server: ForkServer) -> None:
        self.pid: int | None = None
        self.returncode: int | None = None
        self._server = server

    @property
    def never_was(self) -> bool:
        """Whether nothing has come of the order, and nothing will."""
        return self.poll() is not None and self.pid is None

    def poll(self) -> int | None:
        """The exit code once it has ended, negative for a signal; None while it lives."""
        if self.pid is None:
            self._server.hear()
        if self.returncode is None and self.pid is not None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended.

        Raises:
            TimeoutExpired: when it hasn't after ``timeout`` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            time.sleep(_WAIT_S)
        return code

    def terminate(self) -> None:
        """Ask it to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Make it end."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self.poll() is None and self.pid is None:
            self._server.end()
        if self.poll() is None and self.pid is not None:
            os.kill(self.pid, number)  # it isn't reaped yet


def begin() -> ForkServer | None:
    """A server, forked off this process, which has no thread yet; ``None`` where there can't be one."""
    if sys.platform != "linux":
        return None
    for name in COMMON:
        import_module(name)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        pid = os.fork()
    except OSError as error:
        log.warning("workers are started without what is imported already: %s", error)
        ours.close()
        theirs.close()
        return None
    if not pid:
        end_with_parent()
        ours.close()
        _become_server(theirs)
    theirs.close()
    return ForkServer(ours, pid)


def _become_server(channel: socket.socket) -> NoReturn:
    """Carry out orders; this process ends here, as a server or as a worker."""
    _to_nowhere(0)
    try:
        for name in WORKERS:
            import_module(name)
    except ImportError:  # a worker that is started without this server says what is missing
        os._exit(1)
    mark("workers' imports")
    gc.collect()
    gc.freeze()  # what all have stays shared
    order = _next_order(channel)
    if order is None:
        os._exit(0)
    _become_worker(order, channel)
    sys.exit()


def _next_order(channel: socket.socket) -> dict[str, Any] | None:
    """In a new process: its order. In this one, ``None`` once no more come."""
    while text := channel.recv(_MOST_BYTES):
        between = os.fork()
        if between:
            os.waitpid(between, 0)
            continue
        between = os.getpid()
        if os.fork():
            os._exit(0)
        while os.getppid() == between:
            time.sleep(_LOOK_S)
        order: dict[str, Any] = json.loads(text)
        return order
    return None


def _become_worker(order: Mapping[str, Any], channel: socket.socket) -> None:
    arguments: list[str] = order["arguments"]
    rename([sys.executable, "-m", "helix_df", *arguments])
    os.environ.update(order["changes"])
    if order["cores"]:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, order["cores"])
    if order["output"] is None:
        _to_nowhere(1)
        _to_nowhere(2)
    else:
        with contextlib.suppress(OSError):  # a log that can't be written is no reason not to serve
            write_output_to(Path(order["output"]))
    if os.getppid() == order["parent"]:
        channel.send(json.dumps({"number": order["number"], "pid": os.getpid()}).encode())
    channel.close()
    sys.argv = ["helix_df", *arguments]
    runpy.run_module("helix_df", run_name="__main__", alter_sys=True)


def _to_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
