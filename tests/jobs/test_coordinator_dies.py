"""A coordinator that is killed is started again, and takes back the workers that it had, with their weights."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from helix_df.errors import DeploymentError
from helix_df.layers import LayerRange
from helix_df.plan.plan import Plan
from helix_df.runtime.api.client import fetch_status
from helix_df.runtime.jobs.directory import DaemonRecord, JobDirectory, find_running, job_directory
from helix_df.runtime.jobs.lifecycle import start_daemon, stop_daemon, until_ready
from helix_df.runtime.jobs.processes import children_of, command_line
from tests.runtime.tiny import tiny_plan

pytestmark = pytest.mark.skipif(not Path("/proc").exists(), reason="finds processes in /proc")

HALVES = {"a": LayerRange(0, 2), "b": LayerRange(2, 4)}
ROOT = Path(__file__).parents[2]


def until(condition: object, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.02)


@contextmanager
def daemon(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[JobDirectory, DaemonRecord]]:
    """A ready job of real processes."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    job = job_directory("tiny")
    process = start_daemon(job, plan, start_timeout_s=240)
    try:
        yield job, until_ready(job, process)
    finally:
        stop_daemon(job)
        process.wait()
    assert children_of(process.pid) == ()


def workers(record: DaemonRecord) -> dict[str, int]:
    """Process ids of a job's local workers, whoever is their parent now."""
    parents = [pid for pid in (record.pid, record.coordinator) if pid is not None]
    found = {pid: command_line(pid) for parent in parents for pid in children_of(parent)}
    return {words[words.index("--node") + 1]: pid for pid, words in found.items() if "--node" in words}


def answer(url: str, number: int) -> dict[str, object]:
    body = {"model": "tiny", "prompt": [1 + number, 7, 9], "max_tokens": 24, "return_token_ids": True, "seed": number}
    response = httpx.post(f"{url}/v1/completions", json=body, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()["choices"]


def kill_the_coordinator(job: JobDirectory) -> DaemonRecord:
    """The record of the one that came after it, once it is complete."""
    before = job.record()
    os.kill(before.coordinator, signal.SIGKILL)
    until(lambda: (now := job.record()).coordinator not in (None, before.coordinator) and now.state == "ready")
    return job.record()


def test_a_killed_coordinator_comes_back_and_its_workers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = tiny_plan(HALVES)
    with daemon(plan, monkeypatch) as (job, record):
        expected = [answer(record.url, number) for number in range(3)]
        before = workers(record)
        assert set(before) == {"a", "b"}
        assert record.pid != record.coordinator
        for life in (1, 2):
            after = kill_the_coordinator(job)
            assert (after.url, after.pid, after.restarts, after.token) == (record.url, record.pid, life, record.token)
            assert workers(after) == before, "nobody loads anything again"
            assert [answer(record.url, number) for number in range(3)] == expected
            status = fetch_status(record.url)
            assert status.state == "ready"
            assert [node.restarts for node in status.nodes] == [0, 0]
        os.kill(before["b"], signal.SIGKILL)
        until(lambda: fetch_status(record.url).nodes[1].restarts == 1)
        until(lambda: fetch_status(record.url).state == "ready")
        assert workers(job.record())["a"] == before["a"]
        assert answer(record.url, 0) == expected[0]
        assert "taken back" in job.log_path().read_text()
    assert job.record().state == "stopped"
    assert not job.is_running()
    assert sorted(file.name for file in job.path.iterdir()) == ["daemon.json", "lock", "logs", "plan.json"]


def test_status_says_so_while_a_coordinator_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with daemon(tiny_plan(HALVES), monkeypatch) as (job, record):
        os.kill(record.coordinator, signal.SIGKILL)
        until(lambda: job.record().state == "restarting")
        with pytest.raises(DeploymentError, match=r"(?s)ended by itself.*was killed by signal 9"):
            find_running("tiny")
        assert stop_daemon(job)
        assert job.record().state == "stopped"


def test_workers_go_when_nobody_is_left_to_watch_over_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with daemon(tiny_plan(HALVES), monkeypatch) as (job, record):
        left = workers(record)
        os.kill(record.pid, signal.SIGKILL)
        assert answer(record.url, 0), "the coordinator itself goes on"
        os.kill(record.coordinator, signal.SIGKILL)
        until(lambda: not any(command_line(pid) for pid in left.values()))
        assert not job.is_running()
