"""A daemon whose API has keys and a certificate: its user's own tools come in, and nobody else without a key."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

import helix_df
from helix_df import deployment
from helix_df.errors import DeploymentError, RequestError
from helix_df.runtime.access import Access
from helix_df.runtime.api.client import RemoteJob, http_client
from helix_df.runtime.api.keys import add_key, read_keys
from helix_df.runtime.jobs.directory import job_directory
from helix_df.runtime.jobs.lifecycle import check_alive, start_daemon, stop_daemon, until_ready
from helix_df.spec.job import Tls
from tests.api.test_tls import make_certificate
from tests.jobs.conftest import ROOT, tiny_plan

COMMAND = (sys.executable, "-m", "tests.jobs.fake_daemon", "ok")


def plan_with(**runtime):
    plan = tiny_plan()
    job = plan.job.model_copy(update={"runtime": plan.job.runtime.model_copy(update=runtime)})
    return replace(plan, job=job)


async def test_keys_and_a_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    certificate, key = make_certificate(tmp_path, "own")
    file = tmp_path / "keys.json"
    anna = add_key(file, "anna")
    job = job_directory("tiny")
    plan = plan_with(api_keys=str(file), tls=Tls(certificate=certificate, key=key))
    process = start_daemon(job, plan, start_timeout_s=30, command=COMMAND)
    try:
        record = until_ready(job, process)
        assert record.url.startswith("https://")
        assert deployment.status("tiny").name == "job"
        async with helix_df.connect("tiny") as running:
            assert str(await running.complete("p", max_tokens=5)) == "Hello"
        for access, comes_in in (
            (Access(record.url, anna, certificate), True),
            (Access(record.url, None, certificate), False),
        ):
            async with http_client(access) as http:
                if comes_in:
                    assert str(await RemoteJob(http).complete("p", max_tokens=5)) == "Hello"
                else:
                    with pytest.raises(RequestError, match="API key"):
                        await RemoteJob(http).complete("p", max_tokens=5)
        left = "".join(
            path.read_text() for path in job.path.rglob("*") if path.is_file() and path.suffix in (".log", ".json")
        )
        assert anna not in left
    finally:
        stop_daemon(job, grace_s=5)
        process.wait()


@pytest.mark.parametrize(
    ("runtime", "where"),
    [
        ({"host": "0.0.0.0"}, "runtime.host"),
        ({"api_keys": "/nowhere/keys.json"}, "/nowhere/keys.json"),
        ({"tls": Tls(certificate="/nowhere/c.pem", key="/nowhere/k.pem")}, "runtime.tls.certificate"),
    ],
)
def test_a_daemon_does_not_start_with_an_entrance_that_is_wrong(monkeypatch: pytest.MonkeyPatch, runtime, where: str):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    job = job_directory("tiny")
    process = start_daemon(job, plan_with(**runtime), start_timeout_s=30, command=COMMAND)
    process.wait(60)
    with pytest.raises(DeploymentError) as raised:
        check_alive(job, process)
    assert raised.value.where == where


def test_the_command_makes_lists_and_revokes_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "helix_df", "api-keys", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    made = run("add", "anna", "--max-in-flight", "4", "--requests-per-minute", "60")
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("hdf-")
    assert made.stdout.strip() not in (tmp_path / "api-keys.json").read_text()
    listed = run("list").stdout
    assert "anna" in listed
    assert made.stdout.strip() not in listed
    assert run("remove", "bert").returncode == DeploymentError.exit_code
    assert run("remove", "anna").returncode == 0
    assert read_keys(tmp_path / "api-keys.json") == ()
    assert run("add").returncode == 2


def test_httpx_is_what_a_stranger_uses():
    assert httpx.Headers(Access("x", "k").headers)["authorization"] == "Bearer k"
