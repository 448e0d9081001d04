"""Starting and ending the daemon of a job. Doesn't know what it runs, nor how progress is shown."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import helix_df.errors
from helix_df.errors import DeploymentError, HelixError
from helix_df.file_errors import explained_files
from helix_df.plan.plan import Plan, write_plan
from helix_df.runtime.api.client import fetch_status
from helix_df.runtime.jobs.ahead import Ahead
from helix_df.runtime.jobs.directory import DaemonRecord, Failure, JobDirectory, last_words
from helix_df.runtime.log_files import write_output_to
from helix_df.runtime.log_lines import log_arguments
from helix_df.runtime.requests import JobStatus

DAEMON = (sys.executable, "-m", "helix_df.runtime.jobs.daemon")
SUPERVISOR = (sys.executable, "-m", "helix_df.runtime.jobs.supervisor")
STOP_GRACE_S = 30.0
_KILL_GRACE_S = 5.0
_POLL_S = 0.05
_LOOK_S = 0.1


def start_daemon(
    job: JobDirectory,
    plan: Plan,
    *,
    start_timeout_s: float | None = None,
    command: Sequence[str] = DAEMON,
    ahead: Ahead | None = None,
) -> subprocess.Popen[bytes]:
    """Start the daemon of a job, and who watches over it, in a session of their own; returns at once.

    The lock is taken here and inherited by both, so that no second one can start in between. Where processes wait for
    that ``ahead``, they are these two.

    Raises:
        DeploymentError: when the job runs already.
        FileError: when its folder can't be written.
    """
    with explained_files(job.path):
        lock = job.lock()
        try:
            _prepare(job, plan)
            with job.log_path().open("ab") as log:
                if command is DAEMON:
                    begun = (ahead or Ahead(log)).begin(lock, job.path, *_options(plan, command, start_timeout_s))
                    if begun is not None:
                        return begun
                return subprocess.Popen(
                    _command(job, plan, lock, command, start_timeout_s),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(lock,),
                    start_new_session=True,
                )
        finally:
            os.close(lock)


def _command(
    job: JobDirectory, plan: Plan, lock: int, daemon: Sequence[str], start_timeout_s: float | None
) -> list[str]:
    """Of the process that watches over a daemon."""
    own, of_daemon = _options(plan, daemon, start_timeout_s)
    return [*SUPERVISOR, str(job.path), "--lock", str(lock), *own, "--", *of_daemon]


def _options(plan: Plan, daemon: Sequence[str], start_timeout_s: float | None) -> tuple[list[str], list[str]]:
    """Options of the process that watches over a daemon, and the daemon's command without the folder."""
    timeout = [] if start_timeout_s is None else ["--start-timeout", str(start_timeout_s)]
    said = log_arguments(plan.job.runtime.log_format)
    return said, [*daemon, *timeout, *said]


def _prepare(job: JobDirectory, plan: Plan) -> None:
    job.clear()
    write_plan(plan, job.plan_path)
    job.reserve()


def run_here(job: JobDirectory, plan: Plan, *, start_timeout_s: float | None = None) -> NoReturn:
    """Let this process become who watches over the daemon of a job, as under a service manager; it never returns.

    Raises:
        DeploymentError: when the job runs already.
    """
    with explained_files(job.path):
        lock = job.lock()
        _prepare(job, plan)
        os.set_inheritable(lock, True)
        with contextlib.suppress(PermissionError):  # it leads one already
            os.setsid()
        write_output_to(job.log_path())
    os.execv(SUPERVISOR[0], _command(job, plan, lock, DAEMON, start_timeout_s))


def check_alive(job: JobDirectory, process: subprocess.Popen[bytes]) -> DaemonRecord | None:
    """What a daemon that was just started says of itself; ``None`` before its first word.

    Raises:
        HelixError: when it ended, as the error that ended it.
    """
    code = process.poll()
    record = job.record()
    if code is None:
        return record
    if record is not None and record.failure is not None:
        raise revive(record.failure)
    if record is not None and record.state == "stopped":
        raise DeploymentError(f"job {job.name} was taken down before it was ready")
    raise DeploymentError(
        "the coordinator ended",
        where=str(job.log_path()),
        found=f"exit code {code}\n{last_words(job.log_path())}".rstrip(),
    )


def until_serving(job: JobDirectory, process: subprocess.Popen[bytes]) -> DaemonRecord:
    """Wait until the API of a daemon that was just started is up.

    Raises:
        HelixError: when the daemon ended, as the error that ended it.
    """
    while True:
        record = check_alive(job, process)
        if record is not None and record.url is not None:
            return record
        time.sleep(_LOOK_S)


def until_ready(
    job: JobDirectory, process: subprocess.Popen[bytes], show: Callable[[JobStatus], None] | None = None
) -> DaemonRecord:
    """Wait until every worker is up, and call ``show`` with how far they are, a few times a second.

    Raises:
        HelixError: as ``until_serving``.
    """
    while True:
        record = check_alive(job, process)
        if show is not None and record is not None and record.url is not None:
            with contextlib.suppress(DeploymentError):  # whether it lives is not for the API to say
                show(fetch_status(record.access()))
        if record is not None and record.state == "ready":
            return record
        time.sleep(_LOOK_S)


def revive(failure: Failure) -> HelixError:
    """The error that a daemon wrote down."""
    kind = getattr(helix_df.errors, failure.kind, DeploymentError)
    if not (isinstance(kind, type) and issubclass(kind, HelixError)) or kind in (
        helix_df.errors.SpecErrors,
        helix_df.errors.RequestError,
    ):
        kind = DeploymentError
    return kind(failure.problem, where=failure.where, found=failure.found, expected=failure.expected, hint=failure.hint)


def stop_daemon(job: JobDirectory, grace_s: float = STOP_GRACE_S) -> bool:
    """End a job's daemon and its workers; returns whether it was running.

    They get ``grace_s`` seconds to go by themselves, and are killed then.

    Raises:
        DeploymentError: when a process is left all the same.
    """
    pid = _daemon_pid(job)
    if pid is None:
        return False
    _ask_to_end(job, pid)
    if not _wait(lambda: not _left(job, pid), grace_s):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        if not _wait(lambda: not _left(job, pid), _KILL_GRACE_S):
            raise DeploymentError(
                f"job {job.name} can't be stopped", found=f"processes {', '.join(map(str, _session_members(pid)))}"
            )
    return True


def _ask_to_end(job: JobDirectory, pid: int) -> None:
    """Tell the process whose end is the job's; the coordinator itself, where nobody watches over it any more."""
    record = job.record()
    for told in (pid, record.coordinator if record is not None else None):
        with contextlib.suppress(ProcessLookupError):
            if told is not None and os.getsid(told) == pid:
                os.kill(told, signal.SIGTERM)
                return


def until_ended(job: JobDirectory, timeout_s: float) -> bool:
    """Wait until a job's daemon has ended by itself; says whether it has in time."""
    return _wait(lambda: not job.is_running(), timeout_s)


def _daemon_pid(job: JobDirectory) -> int | None:
    """The daemon's process id, certain as long as it holds the lock; one that has just started may take a moment."""
    pid: int | None = None

    def found() -> bool:
        nonlocal pid
        if not job.is_running():
            return True
        record = job.record()
        pid = None if record is None else record.pid
        return pid is not None

    if not _wait(found, _KILL_GRACE_S):
        raise DeploymentError(
            f"job {job.name} is locked, but its daemon doesn't say who it is", where=str(job.path / "daemon.json")
        )
    return pid


def _left(job: JobDirectory, pid: int) -> bool:
    return job.is_running() or bool(_session_members(pid))


def _session_members(session: int) -> list[int]:
    """Processes of a session that still live; a daemon's workers are in its session."""
    stats = list(Path("/proc").glob("[0-9]*/stat"))
    if not stats:  # no /proc: ask for the process group instead
        try:
            os.killpg(session, 0)
        except (ProcessLookupError, PermissionError):
            return []
        return [session]
    members = []
    for stat in stats:
        try:
            state, _, _, owner = stat.read_text(errors="replace").rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue  # it is gone by now
        if int(owner) == session and state not in "ZX":
            members.append(int(stat.parent.name))
    return members


def _wait(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True
