"""The jobs of this machine: one folder each, with the plan that runs, the daemon's record and the logs.

A daemon holds its folder's lock as long as it lives, so whether a job runs is a fact of the kernel's and never a stale
process id. Doesn't start or stop anything (``lifecycle``).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import platformdirs

from helix_df.errors import DeploymentError
from helix_df.runtime.access import Access, operator_key
from helix_df.runtime.log_files import put_aside
from helix_df.runtime.log_lines import in_words

LOCK_ATTEMPTS = 20
LOCK_PAUSE_S = 0.02
READ_ATTEMPTS = 3
RESERVED_BYTES = 8192
"""Of the record and of the identity, so that they can be written when a disk has no room left."""

LAST_WORDS_LINES = 12
_TAIL_BYTES = 65536

DaemonState = Literal["starting", "serving", "ready", "restarting", "failed", "stopped"]
"""Not up yet; API up while workers load; complete, or able to serve and late; its coordinator has ended by itself and
is started again; ended badly; ended as asked."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a daemon ended: the kind of error and its parts, as ``HelixError`` has them."""

    kind: str
    problem: str
    where: str | None = None
    found: str | None = None
    expected: str | None = None
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class DaemonRecord:
    """What a daemon says of itself. ``started`` is in Unix seconds; ``url`` is where its API answers, once it does.

    ``pid`` is the process whose end is the job's, which leads the session of all others; ``coordinator`` the one that
    serves at present, ``restarts`` how often one was started again, and ``detail`` why the last one was.

    ``join_commands`` has the command of each worker that a person starts, which name files of the user's. ``token`` is
    the job's secret. So both are here, where only the user reads, and not in the API. ``certificate`` is the file of
    the API's, with TLS.
    """

    pid: int
    state: DaemonState
    started: float
    url: str | None = None
    failure: Failure | None = None
    join_commands: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    coordinator: int | None = None
    restarts: int = 0
    detail: str = ""
    certificate: str | None = None

    def access(self) -> Access:
        """How this machine's user gets to the API, once it answers.

        Raises:
            DeploymentError: before that.
        """
        if self.url is None:
            raise DeploymentError("the job's API isn't up yet", hint="try again in a moment")
        return Access(self.url, None if self.token is None else operator_key(self.token), self.certificate)


@dataclass(frozen=True, slots=True)
class JobIdentity:
    """What a coordinator needs to be taken for the one before it: the job's secret, the address that workers send to,
    and the port that clients connect to. ``run`` tells its journal from those of others; ``names`` are those of the
    workers by their nodes, once another plan has taken over, and ``spares`` those of nodes that it does without until
    they are back (``plan.takeover``)."""

    token: str
    address: str
    port: int
    run: str = ""
    names: dict[str, str] | None = None
    spares: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobDirectory:
    """The folder of one job."""

    path: Path

    @property
    def name(self) -> str:
        """The job's name."""
        return self.path.name

    @property
    def plan_path(self) -> Path:
        """The plan that runs, or ran last."""
        return self.path / "plan.json"

    @property
    def keys_path(self) -> Path:
        """The job's keys, for the coordinator alone."""
        return self.path / "keys.json"

    @property
    def worker_key_path(self) -> Path:
        """What of them a worker on another host needs: this file is copied there."""
        return self.path / f"{self.name}.key"

    @property
    def live_plan_path(self) -> Path:
        """The same under the names of its workers, once it has taken over from another."""
        return self.path / "plan.live.json"

    @property
    def wanted_plan_path(self) -> Path:
        """The plan that was asked for, while the one that runs does without nodes that are lost."""
        return self.path / "plan.wanted.json"

    @property
    def asked_plan_path(self) -> Path:
        """The plan that was asked for, while one of another size runs."""
        return self.path / "plan.asked.json"

    @property
    def sizes_path(self) -> Path:
        """A folder of plans of other sizes, for a job whose nodes come and go."""
        return self.path / "sizes"

    @property
    def log_dir(self) -> Path:
        """Where the coordinator and the local workers write."""
        return self.path / "logs"

    def log_path(self, node: str = "coordinator") -> Path:
        """The log of a local worker, or of the coordinator."""
        return self.log_dir / f"{node}.log"

    def events_path(self, node: str = "coordinator") -> Path:
        """The events that a local worker, or the coordinator, was told; prompts are in it, so only the user reads."""
        return self.log_dir / f"{node}.events"

    def is_running(self) -> bool:
        """Whether a daemon lives here."""
        try:
            with (self.path / "lock").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        return False

    def lock(self) -> int:
        """Take the lock; whoever has the returned file descriptor, or inherits it, holds it until it is closed.

        Raises:
            DeploymentError: when a daemon holds it.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.log_dir.mkdir(exist_ok=True)
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for _ in range(LOCK_ATTEMPTS):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return descriptor
            except BlockingIOError:
                time.sleep(LOCK_PAUSE_S)  # somebody may only be looking whether it is free
        os.close(descriptor)
        raise DeploymentError(
            f"job {self.name} is already running",
            where=str(self.path),
            hint=f"`helix-df down {self.name}` stops it; `--name` starts this one beside it",
        )

    def is_of(self, lock: int) -> bool:
        """Whether the folder is that of whoever holds a lock, and not gone or made anew."""
        try:
            return os.path.samestat((self.path / "lock").stat(), os.fstat(lock))
        except OSError:
            return False

    def record(self) -> DaemonRecord | None:
        """What the daemon said last; ``None`` if there was none or it hasn't said anything yet."""
        try:
            document = self._read("daemon.json")
            if document is None:
                return None
            failure = document.pop("failure")
            return DaemonRecord(**document, failure=Failure(**failure) if failure else None)
        except (ValueError, TypeError, KeyError) as error:
            raise DeploymentError("the daemon's record is damaged", where=str(self.path / "daemon.json")) from error

    def write_record(self, record: DaemonRecord) -> None:
        """Replace the record in one step, so that a reader never sees half of it."""
        self._replace("daemon.json", asdict(record))

    def reserve(self) -> None:
        """Take the room that a run needs to say what becomes of it, before it begins.

        Raises:
            OSError: when there is none.
        """
        for name in ("daemon.json", "identity.json"):
            _write_privately(self.path / name, b" " * RESERVED_BYTES)

    def _replace(self, name: str, document: dict[str, Any]) -> None:
        """In one step; in place, where the disk has no room for both."""
        text = (json.dumps(document, indent=1) + "\n").encode().ljust(RESERVED_BYTES)
        scratch = self.path / f"{name}.tmp"
        try:
            _write_privately(scratch, text)
            scratch.replace(self.path / name)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            scratch.unlink(missing_ok=True)
            with (self.path / name).open("r+b", buffering=0) as file:
                if os.fstat(file.fileno()).st_size < len(text):
                    raise
                file.write(text)
                file.truncate()

    def _read(self, name: str) -> dict[str, Any] | None:
        """The document of a file; ``None`` if there is none, or nothing in it yet."""
        for attempt in range(READ_ATTEMPTS):
            try:
                text = (self.path / name).read_text(encoding="utf-8").strip()
                document: dict[str, Any] | None = json.loads(text) if text else None
                return document
            except FileNotFoundError:
                return None
            except ValueError:  # it may be written in place just now
                if attempt + 1 == READ_ATTEMPTS:
                    raise
                time.sleep(LOCK_PAUSE_S)
        raise AssertionError

    @property
    def journal_path(self) -> Path:
        """The journal of accepted requests; prompts are in it, so only the user reads."""
        return self.path / "journal.sqlite"

    def identity(self) -> JobIdentity | None:
        """That of the coordinator which runs, or ran last and wasn't stopped."""
        try:
            document = self._read("identity.json")
            return None if document is None else JobIdentity(**document)
        except (ValueError, TypeError) as error:
            raise DeploymentError("the job's identity is damaged", where=str(self.path / "identity.json")) from error

    def write_identity(self, identity: JobIdentity) -> None:
        """Keep it for who comes after; only the user reads it."""
        self._replace("identity.json", asdict(identity))

    def forget_identity(self) -> None:
        """The job was stopped: nobody comes after this coordinator."""
        (self.path / "identity.json").unlink(missing_ok=True)
        self.live_plan_path.unlink(missing_ok=True)
        self.wanted_plan_path.unlink(missing_ok=True)
        self.asked_plan_path.unlink(missing_ok=True)
        shutil.rmtree(self.sizes_path, ignore_errors=True)

    def clear(self) -> None:
        """Forget the last run: its plan, its record, its journal and its events. Its logs are put aside."""
        self.plan_path.unlink(missing_ok=True)
        (self.path / "daemon.json").unlink(missing_ok=True)
        self.forget_identity()
        for file in self.path.glob(f"{self.journal_path.name}*"):
            file.unlink()
        for log in self.log_dir.glob("*.log"):
            put_aside(log)
        for pattern in ("*.events", "*.events.older"):
            for log in self.log_dir.glob(pattern):
                log.unlink()


def _write_privately(path: Path, text: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(text)


def state_folder() -> Path:
    """Where this machine keeps what must outlive a process: ``HELIX_DF_STATE``, or the user's state folder."""
    override = os.environ.get("HELIX_DF_STATE")
    root = Path(override).expanduser() if override else platformdirs.user_state_path("helix-df")
    return root.absolute()


def state_root() -> Path:
    """The folder of all jobs' folders."""
    return state_folder() / "jobs"


def job_directory(name: str, root: Path | None = None) -> JobDirectory:
    """The folder of a job, whether it is there yet or not."""
    return JobDirectory((root or state_root()) / name)


def list_jobs(root: Path | None = None) -> list[JobDirectory]:
    """Every job that runs or ran here, by name."""
    folder = root or state_root()
    return [JobDirectory(path) for path in sorted(folder.glob("*")) if (path / "plan.json").is_file()]


def running_jobs(root: Path | None = None) -> list[JobDirectory]:
    """The jobs that run, by name."""
    return [job for job in list_jobs(root) if job.is_running()]


def find_job(name: str | None, root: Path | None = None) -> JobDirectory:
    """The job of this name, running or not; without a name the only one that runs.

    Raises:
        DeploymentError: when there is none, or several run and none was named.
    """
    if name is not None:
        known = list_jobs(root)
        found = next((job for job in known if job.name == name), None)
        if found is None:
            raise DeploymentError(
                f"there is no job {name}",
                expected=", ".join(job.name for job in known) or None,
                hint="`helix-df apply JOB.yaml` starts one",
            )
        return found
    running = running_jobs(root)
    if not running:
        raise DeploymentError("no job is running", hint="`helix-df apply JOB.yaml` starts one")
    if len(running) > 1:
        raise DeploymentError("several jobs are running", expected=f"one of {', '.join(job.name for job in running)}")
    return running[0]


def find_running(name: str | None, root: Path | None = None) -> tuple[JobDirectory, Access]:
    """A running job and how to get to its API.

    Raises:
        DeploymentError: when it isn't running, with why it ended, or when its API isn't up yet.
    """
    job = find_job(name, root)
    record = job.record()
    if not job.is_running():
        raise DeploymentError(
            f"job {job.name} is not running",
            found=_ending(record),
            hint=f"`helix-df logs {job.name}` has its last words; `helix-df apply` starts it again",
        )
    if record is not None and record.state == "restarting":
        raise DeploymentError(
            f"the coordinator of job {job.name} has ended by itself and is being started again",
            found=f"it {record.detail}",
            hint="try again in a moment; requests that it had accepted go on",
        )
    if record is None or record.url is None:
        raise DeploymentError(f"job {job.name} is only starting", hint="try again in a moment")
    return job, record.access()


def _ending(record: DaemonRecord | None) -> str:
    """How the last run of a job that doesn't run ended."""
    if record is None:
        return "it ended before its first word"
    if record.failure is not None:
        return f"it failed: {record.failure.problem}"
    return "it was stopped" if record.state == "stopped" else "it was killed"


def last_words(path: Path, lines: int = LAST_WORDS_LINES) -> str:
    """The end of a log, in words; empty without one."""
    try:
        with path.open("rb") as file:
            start = max(0, path.stat().st_size - _TAIL_BYTES)
            file.seek(start)
            if start:
                file.readline()  # the end of one
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(map(in_words, text.splitlines()[-lines:]))


def event_names(job: JobDirectory) -> Iterator[str]:
    """The nodes (and ``coordinator``) that left a log of events."""
    return (path.stem for path in sorted(job.log_dir.glob("*.events")))


def log_names(job: JobDirectory) -> Iterator[str]:
    """The nodes (and ``coordinator``) that left a log."""
    return (path.stem for path in sorted(job.log_dir.glob("*.log")))
