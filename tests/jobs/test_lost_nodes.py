"""A node is lost for long: a plan without it takes over, until it is back. Real processes."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from helix_df import deployment
from helix_df.errors import DeploymentError
from helix_df.layers import LayerRange
from helix_df.plan.plan import Plan, read_plan
from helix_df.runtime.api.client import fetch_status
from helix_df.runtime.jobs.directory import DaemonRecord, JobDirectory, job_directory
from helix_df.runtime.jobs.lifecycle import start_daemon, stop_daemon, until_ready, until_serving
from tests.jobs.test_coordinator_dies import ROOT, answer, kill_the_coordinator, until, workers
from tests.runtime.tiny import tiny_plan

HALVES = {"a": LayerRange(0, 2), "b": LayerRange(2, 4)}


def halves(**runtime: object) -> Plan:
    """``b`` is started by the test."""
    return tiny_plan(
        HALVES,
        nodes={"a": {"gpu": "toy"}, "b": {"gpu": "toy", "launcher": "external"}},
        solver={"name": "auto", "time_limit": "2s"},
        runtime={
            "max_batch": 4,
            "max_prefill_tokens": 16,
            "port": 0,
            "lost_after": "1s",
            "replan_after": "2s",
            "path_timeout": "120s",
            **runtime,
        },
    )


def start_worker(record: DaemonRecord) -> subprocess.Popen[bytes]:
    """The worker of ``b``, by the command that people are told."""
    command = shlex.split(record.join_commands["b"])
    return subprocess.Popen([sys.executable, "-m", "helix_df", *command[1:]], stderr=subprocess.DEVNULL)


@contextmanager
def job_of(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[JobDirectory, DaemonRecord, list]]:
    """A ready job; the worker of ``b`` is the last of the list."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    job = job_directory("tiny")
    process, started = start_daemon(job, plan), []
    try:
        started.append(start_worker(until_serving(job, process)))
        yield job, until_ready(job, process), started
    finally:
        stop_daemon(job)
        process.wait()
        for worker in started:
            worker.kill()
            worker.wait()


def roles(record: DaemonRecord) -> dict[str, tuple[str, str]]:
    return {node.name: (node.role, node.state) for node in fetch_status(record.url).nodes}


def serving(record: DaemonRecord) -> set[tuple[int, int]]:
    """Layers of the nodes that are ready for requests."""
    nodes = fetch_status(record.url).nodes
    return {node.layers for node in nodes if (node.role, node.state) == ("serving", "ready")}


def lose(started: list) -> None:
    started[-1].kill()
    started[-1].wait()


def test_a_plan_without_a_lost_node_takes_over_until_the_node_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with job_of(halves(), monkeypatch) as (job, record, started), ThreadPoolExecutor(2) as pool:
        expected = [answer(record.url, number) for number in range(2)]
        lose(started)
        until(lambda: not fetch_status(record.url).ready)
        waiting = [pool.submit(answer, record.url, number) for number in range(2)]
        until(lambda: roles(record).get("a.2") == ("serving", "ready"))
        assert roles(record)["b"] == ("spare", "lost")
        assert [one.result() for one in waiting] == expected
        until(lambda: "has taken over" in fetch_status(record.url).replanned)
        said = fetch_status(record.url).replanned
        assert said.startswith("b is lost: a plan without has taken over (a [0, 2) → [0, 4)")
        assert said.endswith("the plan of before does again once all of its nodes have served for 2 s")
        assert said.partition(";")[0] in job.log_path().read_text()
        assert read_plan(job.plan_path).placement == {"a": LayerRange(0, 4)}
        assert deployment.asked_plan("tiny").placement == HALVES
        kept = workers(record)["a.2"]
        record = kill_the_coordinator(job)
        assert workers(record)["a.2"] == kept, "the worker of the plan without is taken back"
        assert "b is lost" in fetch_status(record.url).replanned
        assert [answer(record.url, number) for number in range(2)] == expected
        started.append(start_worker(record))
        until(lambda: serving(record) == {(0, 2), (2, 4)})
        assert roles(record)["b"] == ("serving", "ready"), "it loads nothing again"
        assert [answer(record.url, number) for number in range(2)] == expected
        until(lambda: fetch_status(record.url).replanned == "")
        assert read_plan(job.plan_path).placement == HALVES
        assert not job.wanted_plan_path.exists()
        assert deployment.asked_plan("tiny") == deployment.running_plan("tiny")


def test_what_can_not_be_mended_is_said_once_and_the_job_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    with job_of(halves(replan_bytes="1kB"), monkeypatch) as (job, record, started):
        lose(started)
        until(lambda: "load too much" in fetch_status(record.url).replanned)
        assert set(roles(record)) == {"a", "b"}
        started.append(start_worker(record))
        until(lambda: fetch_status(record.url).ready)
        assert answer(record.url, 0)
        assert job.log_path().read_text().count("load too much") == 1
        os.kill(started[-1].pid, signal.SIGKILL)
        deployment.change(halves(replan_after=None))
        with pytest.raises(DeploymentError, match="no node"):
            deployment.drain("nobody", "tiny")
