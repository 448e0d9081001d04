from __future__ import annotations

import os
import stat

import pytest

from helix_df.errors import DeploymentError
from helix_df.plan.plan import write_plan
from helix_df.runtime.jobs.directory import (
    DaemonRecord,
    Failure,
    find_job,
    find_running,
    job_directory,
    last_words,
    list_jobs,
    running_jobs,
)
from tests.jobs.conftest import tiny_plan


def made(name):
    job = job_directory(name)
    job.path.mkdir(parents=True)
    write_plan(tiny_plan(name), job.plan_path)
    return job


def test_the_lock_is_what_runs():
    job = made("one")
    assert not job.is_running()
    lock = job.lock()
    assert job.is_running()
    with pytest.raises(DeploymentError, match="already running"):
        job.lock()
    os.close(lock)
    assert not job.is_running()


def test_a_record_is_read_back_and_private():
    job = made("one")
    assert job.record() is None
    record = DaemonRecord(
        7, "failed", 1.5, failure=Failure("ModelError", "no weights", hint="x"), join_commands={"a": "b"}
    )
    job.write_record(record)
    assert job.record() == record
    assert stat.S_IMODE((job.path / "daemon.json").stat().st_mode) == 0o600


def test_a_damaged_record_is_explained():
    job = made("one")
    (job.path / "daemon.json").write_text("{}")
    with pytest.raises(DeploymentError, match="damaged"):
        job.record()


def test_without_a_name_the_only_running_job_is_meant():
    with pytest.raises(DeploymentError, match="no job is running"):
        find_job(None)
    one, two = made("one"), made("two")
    assert [job.name for job in list_jobs()] == ["one", "two"]
    locks = [one.lock()]
    assert find_job(None).name == "one"
    assert find_job("two").name == "two"
    locks.append(two.lock())
    with pytest.raises(DeploymentError, match=r"(?s)several.*one, two"):
        find_job(None)
    assert len(running_jobs()) == 2
    for lock in locks:
        os.close(lock)


def test_an_unknown_job_names_the_known():
    made("one")
    with pytest.raises(DeploymentError, match=r"(?s)no job three.*one"):
        find_job("three")


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (None, "before its first word"),
        (DaemonRecord(1, "stopped", 0.0), "was stopped"),
        (DaemonRecord(1, "ready", 0.0), "was killed"),
        (DaemonRecord(1, "failed", 0.0, failure=Failure("DeploymentError", "port 1 is taken")), "port 1 is taken"),
    ],
)
def test_how_a_job_ended(record, words):
    job = made("one")
    if record is not None:
        job.write_record(record)
    with pytest.raises(DeploymentError, match=words):
        find_running("one")


def test_last_words(tmp_path):
    log = tmp_path / "x.log"
    assert last_words(log) == ""
    log.write_text("".join(f"line {number}\n" for number in range(50_000)))
    assert last_words(log, 2) == "line 49998\nline 49999"
