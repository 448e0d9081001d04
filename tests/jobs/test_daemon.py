"""Daemons as processes: their life, their word and their end."""

from __future__ import annotations

import socket
import sys
import threading
from dataclasses import replace

import httpx
import pytest

from helix_df.errors import DeploymentError, HelixError, ModelError
from helix_df.runtime.jobs.daemon import bound_socket, url_of
from helix_df.runtime.jobs.directory import Failure, job_directory
from helix_df.runtime.jobs.lifecycle import check_alive, revive, start_daemon, stop_daemon, until_ready, until_serving
from tests.jobs.conftest import tiny_plan
from tests.runtime.tiny import has_ipv6


def ready(job, process):
    return until_ready(job, process)


def test_a_daemon_from_start_to_end(start):
    job, process = start("ok")
    record = ready(job, process)
    assert record.pid == process.pid
    assert record.join_commands == {"right": "HELIX_DF_TOKEN=secret join"}
    assert httpx.get(f"{record.url}/health").status_code == 200
    with pytest.raises(DeploymentError, match="already running"):
        start_daemon(job, tiny_plan())
    assert stop_daemon(job)
    assert process.wait() == 0
    assert job.record().state == "stopped"
    assert not job.is_running()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{record.url}/health")
    assert not stop_daemon(job)


def test_a_failing_worker_is_reported_and_leaves_nothing(start):
    job, process = start("fails")
    with pytest.raises(DeploymentError, match=r"(?s)didn't start.*out of luck"):
        ready(job, process)
    assert process.returncode == DeploymentError.exit_code
    assert job.record().state == "failed"
    assert not job.is_running()


def test_a_job_that_serves_is_not_ended_for_being_late(start):
    job, process = start("late")
    assert ready(job, process).state == "ready"


def test_a_stubborn_daemon_is_killed_with_its_children(start):
    job, process = start("stubborn")
    until_serving(job, process)
    assert stop_daemon(job, grace_s=0.3)
    assert process.wait() == -9


def test_answers_in_flight_are_told_of_the_end(start):
    job, process = start("pauses")
    url = ready(job, process).url
    body = {"model": "tiny", "prompt": "p", "stream": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=body) as response:
        lines = response.iter_lines()
        assert "H" in next(lines)
        stop = stop_later(job)
        rest = "".join(lines)
        stop.join()
    assert "the job is being stopped" in rest
    assert "[DONE]" not in rest


def stop_later(job):
    thread = threading.Thread(target=stop_daemon, args=(job,))
    thread.start()
    return thread


def test_a_taken_port_is_found_before_anything_starts():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        plan = tiny_plan()
        runtime = plan.job.runtime.model_copy(update={"port": port})
        plan = replace(plan, job=plan.job.model_copy(update={"runtime": runtime}))
        job = job_directory("tiny")
        process = start_daemon(job, plan)
        with pytest.raises(DeploymentError, match=rf"(?s)runtime.port: port {port} is taken.*port: 0"):
            until_serving(job, process)
    assert process.returncode == DeploymentError.exit_code


def test_a_daemon_that_dies_without_a_word():
    job = job_directory("tiny")
    process = start_daemon(job, tiny_plan(), command=(sys.executable, "-c", "raise SystemExit('boom')"))
    process.wait()
    with pytest.raises(DeploymentError, match=r"(?s)exit code 1.*boom"):
        check_alive(job, process)


def test_hosts_that_are_not_this_machine():
    with pytest.raises(DeploymentError, match=r"runtime\.host"), bound_socket("192.0.2.1", 0):
        pass
    with pytest.raises(DeploymentError, match=r"runtime\.host"), bound_socket("no.such.host.invalid", 0):
        pass


@pytest.mark.parametrize(
    ("kind", "expected"), [("ModelError", ModelError), ("SpecErrors", DeploymentError), ("exit", DeploymentError)]
)
def test_errors_come_back_as_they_were(kind, expected):
    error = revive(Failure(kind, "problem", "where", "found", "expected", "hint"))
    assert type(error) is expected
    assert str(error) == str(HelixError("problem", where="where", found="found", expected="expected", hint="hint"))


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_the_api_listens_at_an_ipv6_number_with_brackets_and_without(host):
    with bound_socket(host, 0) as listener:
        assert url_of(listener) == f"http://[::1]:{listener.getsockname()[1]}"
