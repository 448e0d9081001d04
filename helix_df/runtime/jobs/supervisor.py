"""Watches over the daemon of a job: starts it, starts it again when it ends by itself, and leaves nothing behind.

The daemon's workers become children of the supervisor when the daemon dies (on Linux), so that they live on and the
next daemon takes them back. It knows nothing of jobs but the folder, and imports little, since it runs as long as the
job does. Run as ``python -m helix_df.runtime.jobs.supervisor DIR --lock FD -- DAEMON …``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from helix_df.errors import DeploymentError
from helix_df.runtime.coordinator.restarts import Restarts
from helix_df.runtime.jobs.directory import DaemonRecord, Failure, JobDirectory
from helix_df.runtime.jobs.kept_folder import KeptFolder
from helix_df.runtime.jobs.own_process import adopt_orphans
from helix_df.runtime.jobs.processes import children_of
from helix_df.runtime.jobs.standby import Standby
from helix_df.runtime.log_files import BoundedLog, is_standard_error, write_output_to
from helix_df.runtime.log_lines import add_log_format, formatter

log = logging.getLogger("helix_df.supervisor")  # not __name__, which is __main__ here

STOP_GRACE_S = 10.0
"""Seconds that what a daemon has left behind gets to go by itself, once the job ends."""

KEEP_EVERY_S = 1.0
_LOOK_S = 0.05

_DAEMON = "daemon"
_WORDS_OF_PYTHON = 3
"""Of a command: the interpreter, ``-m`` and the module."""


class FirstDaemon(Protocol):
    """A process, a child of this one, that waits to become the first daemon."""

    pid: int

    def tell(self, lock: int, message: dict[str, Any]) -> bool:
        """Let it begin; whether it could hear that."""
        ...


def main(arguments: Sequence[str] | None = None, first: FirstDaemon | None = None) -> int:
    """Watch over a daemon until it ends for good; returns its exit code. Its ``first`` is ready, if given."""
    parser = argparse.ArgumentParser(prog="helix_df.runtime.jobs.supervisor", description="Keeps a job's daemon alive.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--lock", type=int, required=True, help="a file descriptor that holds the folder's lock")
    add_log_format(parser)
    parser.add_argument("daemon", nargs="+", help="the daemon's command, without the folder")
    options = parser.parse_args(arguments)
    job = JobDirectory(options.directory.absolute())
    handler = BoundedLog(job.log_path())
    handler.setFormatter(formatter(options.log_format, "supervisor"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    adopt_orphans()
    return asyncio.run(_Supervisor(job, options.lock, options.daemon, first).run())


class _Supervisor:
    """One job's. ``lock`` is inherited by every daemon, so the folder is never free in between."""

    def __init__(self, job: JobDirectory, lock: int, command: Sequence[str], first: FirstDaemon | None) -> None:
        self._job = job
        self._first = first
        self._options = command[_WORDS_OF_PYTHON:]
        self._lock = lock
        self._command = [*command, str(job.path), "--lock", str(lock), "--supervisor", str(os.getpid())]
        self._daemon: int | None = None
        self._ended: asyncio.Future[int] | None = None
        self._asked_to_end = asyncio.Event()
        self._restarts = Restarts()
        self._folder = KeptFolder(job, lock)
        self._standby = Standby(self._command, lock)

    async def run(self) -> int:
        keeping = [asyncio.create_task(self._keep_folder()), asyncio.create_task(self._keep_standby())]
        try:
            return await self._run()
        finally:
            for task in keeping:
                task.cancel()

    async def _keep_standby(self) -> None:
        """Have the next coordinator's process wait, once a job is ready: starting has the cores to itself."""
        while True:
            await asyncio.sleep(KEEP_EVERY_S)
            record = self._record() if self._daemon is not None and not self._standby.waits else None
            if record is not None and record.state == "ready" and record.coordinator == self._daemon:
                self._standby.prepare()

    async def _keep_folder(self) -> None:
        """Put the job's folder back when it is deleted, so that it can be seen and ended."""
        told = ""
        while True:
            await asyncio.sleep(KEEP_EVERY_S)
            try:
                if await asyncio.to_thread(self._folder.look):
                    self._standby.drop()  # it holds the lock of the folder that was
                    self._write_to_log()
                    log.warning("the job's folder was deleted while it runs, and is put back")
                told = ""
            except DeploymentError as error:
                log.error("%s: this run ends", error)
                self._end()
                return
            except OSError as error:
                if str(error) != told:
                    log.error("the job's folder can't be kept: %s", error)
                told = str(error)

    async def _run(self) -> int:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        code = await self._one_life()
        while self._is_to_go_on(code):
            wait_s = self._restarts.ended(_DAEMON, time.monotonic())
            self._write_to_log()
            log.error("the coordinator %s and is started again in %g s", _words(code), wait_s)
            self._note(code)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._asked_to_end.wait(), wait_s)
            if self._asked_to_end.is_set():
                self._note_end()
                code = 0
                break
            code = await self._one_life()
        await self._leave_nothing()
        return code if code >= 0 else 128 - code

    async def _one_life(self) -> int:
        """Start the daemon and wait for its end; returns its exit code, negative for a signal."""
        self._ended = asyncio.get_running_loop().create_future()
        self._restarts.started(_DAEMON, time.monotonic())
        times = self._restarts.counts[_DAEMON]
        self._daemon = (self._standby.take(times) if times else self._take_first()) or self._started(times)
        if self._daemon is None:
            return 1
        self._reap()
        if self._asked_to_end.is_set():
            self._end()
        return await self._ended

    def _take_first(self) -> int | None:
        """Let the process begin that waits to be the first daemon; ``None`` if there is none any more."""
        options = [*self._options, "--supervisor", str(os.getpid())]
        if self._first is None or not self._first.tell(
            self._lock, {"folder": str(self._job.path), "options": list(options)}
        ):
            return None
        return self._first.pid

    def _started(self, times: int) -> int | None:
        """A daemon's process id; ``None``, once that is told, if there can't be one now."""
        try:
            process = subprocess.Popen(
                [*self._command, "--restarts", str(times)], stdin=subprocess.DEVNULL, pass_fds=(self._lock,)
            )
        except OSError as error:  # no process or descriptor left: later, perhaps
            log.error("the coordinator can't be started: %s", error)
            if not times:
                why = Failure("DeploymentError", "the coordinator can't be started", found=str(error))
                self._write(DaemonRecord(os.getpid(), "failed", time.time(), failure=why))
            return None
        process.returncode = 0  # it is reaped here, with all others
        return process.pid

    def _write_to_log(self) -> None:
        """The daemon has put the log aside that this process and the next daemon would write to."""
        if not is_standard_error(self._job.log_path()):
            with contextlib.suppress(OSError):
                write_output_to(self._job.log_path())

    def _restore_folder(self) -> None:
        with contextlib.suppress(OSError, DeploymentError):  # `_keep_folder` tells
            self._folder.look()

    def _is_to_go_on(self, code: int) -> bool:
        """A job that has served is brought up again until it is taken down; one that never did has failed."""
        if code == 0 or self._asked_to_end.is_set():
            return False
        if self._restarts.counts[_DAEMON]:
            return True
        self._restore_folder()  # what it says there is asked next
        record = self._record()
        return record is not None and record.url is not None

    def _reap(self) -> None:
        """Take note of every child that has ended, orphans of former daemons included."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self._daemon and self._ended is not None:
                    self._daemon = None
                    self._ended.set_result(os.waitstatus_to_exitcode(status))
                else:
                    self._standby.ended(pid)

    def _end(self) -> None:
        self._asked_to_end.set()
        if self._daemon is not None:
            os.kill(self._daemon, signal.SIGTERM)  # it is there, or not reaped yet

    def _note(self, code: int) -> None:
        """Say what has become of the coordinator, since it can't any more."""
        record = self._record() or DaemonRecord(os.getpid(), "restarting", time.time())
        why = _words(code) if record.failure is None else f"failed: {record.failure.problem}"
        self._write(replace(record, state="restarting", coordinator=None, url=None, failure=None, detail=why))

    def _note_end(self) -> None:
        record = self._record()
        if record is not None:
            self._write(replace(record, state="stopped", url=None, join_commands={}, token=None))

    def _record(self) -> DaemonRecord | None:
        try:
            return self._job.record()
        except Exception as error:
            log.error("the daemon's record can't be read: %s", error)
            return None

    def _write(self, record: DaemonRecord) -> None:
        try:
            self._job.write_record(record)
        except OSError as error:
            log.error("the daemon's record can't be written: %s", error)

    async def _leave_nothing(self) -> None:
        """End what a daemon has left behind."""
        self._standby.drop()
        deadline = time.monotonic() + STOP_GRACE_S
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in children_of(os.getpid()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            while children_of(os.getpid()) and time.monotonic() < deadline:
                await asyncio.sleep(_LOOK_S)
                self._reap()


def _words(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


if __name__ == "__main__":
    sys.exit(main())
