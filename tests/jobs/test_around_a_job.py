"""What may happen around a job: disks, folders, files, descriptors, commands at the same time. Real processes.

A job needs its plan and its workers. Whatever else isn't there is done without, and what can't be is one clear error.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from helix_df.errors import DeploymentError, FileError
from helix_df.layers import LayerRange
from helix_df.runtime.api.client import fetch_status
from helix_df.runtime.jobs.directory import JobDirectory, find_running, job_directory
from helix_df.runtime.jobs.lifecycle import stop_daemon
from tests.jobs.conftest import JOB, ROOT
from tests.jobs.test_coordinator_dies import answer, daemon, kill_the_coordinator, until, workers
from tests.runtime.tiny import tiny_plan

HALF, OTHER = LayerRange(0, 2), LayerRange(2, 4)
HALVES_JOB = JOB.replace("NAME", "tiny").replace("nodes: {a: {gpu: cpu}}", "nodes: {a: {gpu: cpu}, b: {gpu: cpu}}")


class Machine:
    """The command line in a sandbox where a file system of some size is mounted at ``disk``."""

    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path
        self.job = tmp_path / "job.yaml"
        self.job.write_text(HALVES_JOB)
        self.environment = os.environ | {"PYTHONPATH": str(ROOT), "HELIX_DF_STATE": str(tmp_path / "state")}

    @property
    def folder(self) -> JobDirectory:
        return job_directory("tiny", Path(self.environment["HELIX_DF_STATE"]) / "jobs")

    def run(self, *words: str, before: str = "", after: str = "", **places: str) -> subprocess.CompletedProcess[str]:
        """A command of helix-df, after a line of shell and before another."""
        command = " ".join([sys.executable, "-m", "helix_df", *words])
        script = f"{before}\n{command}\ncode=$?\n{after}\nexit $code"
        return subprocess.run(
            ["sh", "-c", script],
            capture_output=True, text=True, cwd=self.path, env=self.environment | places, timeout=120,
        )  # fmt: skip

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "helix_df", *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, text=True, cwd=self.path, env=self.environment, **pipes)  # type: ignore[call-overload]

    def is_left(self) -> Sequence[str]:
        """Processes of the job."""
        found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        return [line for line in found.splitlines() if str(self.folder.path) in line]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    if machine.folder.path.exists():
        stop_daemon(machine.folder)
    assert machine.is_left() == []


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a file system can't be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(place: Path) -> None:
    """To the last byte."""
    with (place / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1024)):
            pass


def ready_and_right(machine: Machine, **places: str) -> None:
    """A job that starts, answers, and ends."""
    applied = machine.run("apply", str(machine.job), **places)
    assert applied.returncode == 0, applied.stdout + applied.stderr
    generated = machine.run("generate", "tiny", "Hello", "--max-tokens", "5", **places)
    assert generated.returncode == 0, generated.stderr
    ended = machine.run("down", "tiny", **places)
    assert ended.stdout == "job tiny is down\n", ended.stderr


def is_clear(error: str) -> bool:
    return "Traceback" not in error and "itself failed" not in error and "crashed" not in error


# ------------------------------------------------------------------ disks


def test_a_disk_that_fills_up_ends_nothing(machine: Machine, disk: Path) -> None:
    machine.environment["HELIX_DF_STATE"] = str(disk)
    applied = machine.run("apply", str(machine.job))
    assert applied.returncode == 0, applied.stderr
    record = machine.folder.record()
    fill(disk)
    expected = answer(record.url, 1)
    os.kill(record.coordinator, signal.SIGKILL)
    until(lambda: machine.folder.record().restarts == 1 and machine.folder.record().state == "ready")
    assert answer(record.url, 1) == expected
    status = machine.run("status", "tiny")
    assert "job tiny is ready" in status.stdout, status.stderr
    assert machine.run("down", "tiny").stdout == "job tiny is down\n"
    assert machine.folder.record().state == "stopped"


def test_a_job_on_a_disk_with_no_room_left_starts_or_says_why_not(machine: Machine, disk: Path) -> None:
    """However much room there is: never a traceback, and never a wait for a word that can't be said."""
    machine.environment["HELIX_DF_STATE"] = str(disk)
    fill(disk)
    seen = set()
    for room in (0, 12, 24, 36, 128):
        shutil.rmtree(disk / "jobs", ignore_errors=True)
        (disk / "filler").unlink()
        fill(disk)
        os.truncate(disk / "filler", max(0, (disk / "filler").stat().st_size - room * 1024))
        applied = machine.run("apply", str(machine.job))
        seen.add(applied.returncode)
        if applied.returncode:
            assert is_clear(applied.stderr), applied.stderr
            assert "the disk is full" in applied.stderr
            assert str(disk) in applied.stderr
        else:
            assert answer(machine.folder.record().url, 1)
            stop_daemon(machine.folder)
    assert seen == {0, FileError.exit_code}


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_neither_cache_nor_temporary_folder_is_needed(machine: Machine, disk: Path, how: str) -> None:
    if how == "full":
        fill(disk)
    else:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    ready_and_right(machine, HELIX_DF_CACHE=str(disk / "cache"), TMPDIR=str(disk))


def test_a_state_folder_that_can_not_be_written(machine: Machine, disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    found = machine.run("apply", str(machine.job), HELIX_DF_STATE=str(disk))
    assert found.returncode == FileError.exit_code
    assert f"{disk}/jobs: the file system is read-only" in found.stderr
    assert "HELIX_DF_STATE" in found.stderr
    assert "down again" not in found.stderr, "it never was up"
    places = {"HOME": str(disk), "XDG_STATE_HOME": ""}
    found = machine.run("apply", str(machine.job), before="unset HELIX_DF_STATE", **places)
    assert found.returncode == FileError.exit_code
    assert f"error: {disk}/" in found.stderr


def test_shared_memory_is_not_needed(machine: Machine, disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    hide = f"mount --bind {disk} /dev/shm"
    inside = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
    words = f"{sys.executable} -m helix_df"
    lines = f"{hide}; {words} apply {machine.job} && {words} generate tiny Hello --max-tokens 3 && {words} down"
    found = subprocess.run([*inside, lines], capture_output=True, text=True, env=machine.environment, cwd=machine.path)
    assert found.returncode == 0, found.stderr


# ------------------------------------------------------------------ a folder that is gone


def test_a_folder_that_is_deleted_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with daemon(tiny_plan({"a": HALF, "b": OTHER}), monkeypatch) as (job, record):
        expected, before = answer(record.url, 1), workers(record)
        headers = {"X-Helix-Request-Id": "before"}
        body = {"model": "tiny", "prompt": [3, 5], "max_tokens": 8}
        httpx.post(f"{record.url}/v1/completions", json=body, headers=headers, timeout=60).raise_for_status()
        time.sleep(1.5)  # what is put back is what was there a moment ago
        shutil.rmtree(job.path)
        assert answer(record.url, 1) == expected
        until(lambda: job.is_running() and job.record() is not None)
        assert find_running("tiny")[1].url == record.url
        until(lambda: job.log_path().is_file() and "the journal was deleted" in job.log_path().read_text())
        kept = httpx.get(f"{record.url}/helix/requests/before")
        assert kept.status_code == 200, kept.text
        # The next coordinator finds all that it needs there, and so does the lock its way to it.
        after = kill_the_coordinator(job)
        assert (after.url, workers(after)) == (record.url, before)
        assert answer(record.url, 1) == expected
        assert httpx.get(f"{record.url}/helix/requests/before").status_code == 200
        with pytest.raises(DeploymentError, match="already running"):
            job.lock()


def test_whoever_begins_in_a_deleted_folder_takes_the_place(machine: Machine) -> None:
    assert machine.run("apply", str(machine.job)).returncode == 0
    former = machine.folder.record()
    shutil.rmtree(machine.folder.path)
    lock = machine.folder.lock()
    try:
        until(lambda: not os.path.exists(f"/proc/{former.pid}"))
    finally:
        os.close(lock)
    assert machine.is_left() == []


def test_workers_come_back_to_a_coordinator_without_their_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    with daemon(tiny_plan({"a": HALF, "b": OTHER}), monkeypatch) as (job, record):
        expected, before = answer(record.url, 1), workers(record)
        job.journal_path.unlink()
        job.journal_path.mkdir()
        job.events_path().unlink()
        job.events_path().mkdir()
        after = kill_the_coordinator(job)
        assert "THE JOURNAL IS BEGUN ANEW" in job.log_path().read_text()
        assert fetch_status(after.url).illegal_events == 0
        assert workers(after) == before
        assert answer(record.url, 1) == expected


# ------------------------------------------------------------------ limits of the system


def test_few_descriptors_are_enough(machine: Machine) -> None:
    found = machine.run("apply", str(machine.job), before="ulimit -n 48")
    assert found.returncode == 0, found.stderr
    assert answer(machine.folder.record().url, 1)


@pytest.mark.parametrize("most", [8, 16, 20])
def test_too_few_descriptors_are_told(machine: Machine, most: int) -> None:
    found = machine.run("apply", str(machine.job), before=f"ulimit -n {most}")
    assert found.returncode != 0
    assert is_clear(found.stderr), found.stderr
    assert "oo many files are open" in found.stderr or "Too many open files" in found.stderr


def test_too_few_threads_are_told(machine: Machine) -> None:
    """As another user, since root has no such limit; it may read all files, so that it finds Python."""
    may = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    other = ["setpriv", "--reuid", "64321", "--regid", "64321", "--clear-groups", *may]
    if os.getuid() != 0 or subprocess.run([*other, sys.executable, "-c", ""], capture_output=True).returncode:
        pytest.skip("there is no other user here")
    machine.path.chmod(0o777)
    command = [*other, "prlimit", "--nproc=8", sys.executable, "-m", "helix_df", "apply", machine.job.name]
    found = subprocess.run(command, capture_output=True, text=True, cwd=machine.path, env=machine.environment)
    assert found.returncode == FileError.exit_code, found.stderr
    assert "no more processes or threads can be started" in found.stderr
    assert "ulimit -u" in found.stderr


# ------------------------------------------------------------------ commands at the same time


def test_two_that_apply_the_same_job_at_once(machine: Machine) -> None:
    both = [machine.start("apply", str(machine.job)) for _ in range(2)]
    told = [process.communicate(timeout=120) for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes in ([0, 0], [0, DeploymentError.exit_code]), told
    for (_, err), process in zip(told, both, strict=True):
        assert is_clear(err), err
        assert "down again" not in err
        if process.returncode:
            assert "job tiny is" in err
            assert "already running" in err or "only starting" in err
    assert machine.folder.record().state == "ready"
    assert answer(machine.folder.record().url, 1)


def test_down_while_a_job_starts(machine: Machine) -> None:
    starting = machine.start("apply", str(machine.job))
    until(lambda: machine.folder.record() is not None)
    assert machine.run("down", "tiny").stdout == "job tiny is down\n"
    _, err = starting.communicate(timeout=60)
    assert starting.returncode == DeploymentError.exit_code
    assert err.endswith("error: job tiny was taken down before it was ready\n")
    assert machine.is_left() == []
    ready_and_right(machine)


def test_what_a_killed_job_has_left_is_no_obstacle(machine: Machine) -> None:
    assert machine.run("apply", str(machine.job)).returncode == 0
    os.killpg(machine.folder.record().pid, signal.SIGKILL)
    until(lambda: not machine.folder.is_running())
    status = machine.run("status", "tiny")
    assert status.returncode == DeploymentError.exit_code
    assert "it was killed" in status.stderr
    assert machine.run("down", "tiny").stdout == "job tiny is not running\n"
    (machine.folder.path / "daemon.json.tmp").write_text("{")
    ready_and_right(machine)


# ------------------------------------------------------------------ clocks


def test_the_time_of_day_may_jump(machine: Machine) -> None:
    """An hour forward, then back, in each process of the job, while it serves: nothing is lost, nobody is silent."""
    clock = machine.path / "hours"
    clock.write_text("0")
    (machine.path / "sitecustomize.py").write_text(JUMPING.replace("CLOCK", str(clock)))
    machine.environment["PYTHONPATH"] = f"{machine.path}{os.pathsep}{machine.environment['PYTHONPATH']}"
    assert machine.run("apply", str(machine.job)).returncode == 0
    record = machine.folder.record()
    body = {"model": "tiny", "prompt": [3, 5], "max_tokens": 100, "stream": True, "ignore_eos": True}
    for hours in (1, -1, 0):
        headers = {"X-Helix-Request-Id": f"jump{hours}"}
        with httpx.stream("POST", f"{record.url}/v1/completions", json=body, headers=headers, timeout=60) as response:
            lines = response.iter_lines()
            next(lines)
            clock.write_text(str(hours))
            assert [line for line in lines if line.startswith("data:")][-1] == "data: [DONE]"
        time.sleep(3.5)  # longer than `lost_after`
        status = json.loads(machine.run("status", "tiny", "--json").stdout)
        assert status["state"] == "ready"
        assert [node["restarts"] for node in status["nodes"]] == [0, 0]
        assert status["failed"] == 0
    created = httpx.post(f"{record.url}/v1/completions", json=body | {"stream": False}, timeout=60).json()["created"]
    assert abs(created - time.time()) < 600
    assert httpx.get(f"{record.url}/helix/requests/jump0").status_code == 200


JUMPING = """
import time
from pathlib import Path
_time = time.time
def _jumping():
    try:
        return _time() + 3600 * float(Path("CLOCK").read_text() or 0)
    except (OSError, ValueError):
        return _time()
time.time = _jumping
"""
