"""Jobs in a state folder of the test's own, with daemons that are sure to end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helix_df.load import parse_job
from helix_df.plan.plan import Plan
from helix_df.planning import make_plan
from helix_df.runtime.jobs.directory import JobDirectory, job_directory
from helix_df.runtime.jobs.lifecycle import start_daemon, stop_daemon

JOB = """
name: NAME
model: {source: "random:tiny", name: tiny, context: 128}
gpus: {cpu: {memory: 100MB, profile: {compute: 50GFLOPS, bandwidth: 10GB/s}}}
nodes: {a: {gpu: cpu}}
links: {default: {bandwidth: 1GB/s}}
solver: even
runtime: {port: 0, max_batch: 1, max_prefill_tokens: 16}
"""

Starter = Callable[..., tuple[JobDirectory, "subprocess.Popen[bytes]"]]


ROOT = Path(__file__).parents[2]


def tiny_plan(name: str = "tiny") -> Plan:
    return make_plan(parse_job(JOB.replace("NAME", name)))


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state folder, for this process and those it starts."""
    monkeypatch.setenv("HELIX_DF_STATE", str(tmp_path / "state"))
    return tmp_path / "state" / "jobs"


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Starter]:
    """Starts a fake daemon of some kind, from whatever folder the test is in."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    started: list[tuple[JobDirectory, subprocess.Popen[bytes]]] = []

    def run(kind: str, name: str = "tiny") -> tuple[JobDirectory, subprocess.Popen[bytes]]:
        command = (sys.executable, "-m", "tests.jobs.fake_daemon", kind)
        job = job_directory(name)
        process = start_daemon(job, tiny_plan(name), start_timeout_s=30, command=command)
        started.append((job, process))
        return job, process

    yield run
    for job, process in started:
        stop_daemon(job, grace_s=5)
        process.wait()
