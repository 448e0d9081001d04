"""An edited job is applied while it serves, nodes are drained, and a job ends once its answers have: real processes."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from helix_df import deployment
from helix_df.errors import DeploymentError
from helix_df.layers import LayerRange
from helix_df.plan.plan import Plan, read_plan
from helix_df.runtime.api.client import fetch_status
from helix_df.runtime.jobs.directory import DaemonRecord
from helix_df.runtime.jobs.processes import command_line
from tests.jobs.test_coordinator_dies import HALVES, answer, daemon, kill_the_coordinator, workers
from tests.runtime.tiny import tiny_plan

LATER = {"a": LayerRange(0, 1), "b": LayerRange(2, 4), "c": LayerRange(1, 2)}


def later(**changes: Any) -> Plan:
    return tiny_plan(LATER, nodes={name: {"gpu": "toy"} for name in LATER}, **changes)


@contextmanager
def under_load(record: DaemonRecord, clients: int = 4) -> Iterator[list[object]]:
    """Clients that ask without a pause; what differs from the first answer, or fails, is in the list."""
    expected = [answer(record.url, number) for number in range(clients)]
    wrong: list[object] = []
    asked = [0] * clients
    done = threading.Event()

    def client(number: int) -> None:
        while not done.is_set():
            try:
                if answer(record.url, number) != expected[number]:
                    wrong.append(number)
            except (httpx.HTTPError, AssertionError) as error:
                wrong.append(error)
            asked[number] += 1

    with ThreadPoolExecutor(clients) as pool:
        for number in range(clients):
            pool.submit(client, number)
        try:
            yield wrong
        finally:
            done.set()
    assert min(asked) > 1


def test_another_plan_takes_over_under_load_and_outlives_the_coordinator(monkeypatch: pytest.MonkeyPatch) -> None:
    with daemon(tiny_plan(HALVES), monkeypatch) as (job, record):
        before = workers(record)
        said: list[str] = []
        with under_load(record) as wrong:
            deployment.change(later(), on_status=lambda status: said.append(status.change))
            after = fetch_status(record.url)
        assert wrong == []
        assert any("a.2 is" in words for words in said)
        assert {node.name for node in after.nodes if node.role == "serving"} == {"a.2", "b", "c"}
        pids = workers(record)
        assert pids["b"] == before["b"], "b holds what it held, and wasn't started anew"
        assert [gives_way(pids[name]) for name in ("a.2", "b", "c")] == [True, False, True]
        if sys.platform == "linux":
            own = os.getpriority(os.PRIO_PROCESS, 0)
            assert all(niceness(pid) == {own} for pid in pids.values()), "they gave way only while they loaded"
        assert read_plan(job.plan_path).placement == LATER
        expected = answer(record.url, 0)
        kept = {name: pid for name, pid in workers(record).items() if name != "a"}  # which may be about to end
        record = kill_the_coordinator(job)
        assert {name: pid for name, pid in workers(record).items() if name in kept} == kept
        assert answer(record.url, 0) == expected
        deployment.change(tiny_plan(HALVES))
        assert answer(record.url, 0) == expected
        with pytest.raises(DeploymentError, match=r"another model"):
            deployment.change(later(model={"source": "random:tiny", "context": 128}))


def gives_way(pid: int) -> bool:
    return "--give-way" in command_line(pid)


def niceness(pid: int) -> set[int]:
    """Of the threads of a worker that compute; those that compile go on giving way."""
    named = {int(task.name): (task / "comm").read_text().strip() for task in Path(f"/proc/{pid}/task").iterdir()}
    return {os.getpriority(os.PRIO_PROCESS, thread) for thread in named if thread == pid or "Eigen" in named[thread]}


def test_a_node_is_drained_and_a_job_ends_once_its_answers_have(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"a": LayerRange(0, 4), "b": LayerRange(0, 4)}
    with daemon(tiny_plan(both), monkeypatch) as (job, record):
        deployment.drain("a", "tiny")
        assert answer(record.url, 1)
        nodes = {node.name: node for node in fetch_status(record.url).nodes}
        assert (nodes["a"].drained, nodes["a"].running) == (True, 0)
        with pytest.raises(DeploymentError, match="without b no full path"):
            deployment.drain("b", "tiny")
        deployment.drain("a", "tiny", undo=True)
        with httpx.stream("POST", f"{record.url}/v1/completions", json=_long(), timeout=60) as response:
            lines = response.iter_lines()
            next(lines)
            with ThreadPoolExecutor(1) as pool:
                ending = pool.submit(deployment.down, "tiny", grace_s=60)
                rest = [line for line in lines if line.startswith("data:")]
                assert rest[-1] == "data: [DONE]", "it had its time"
                assert ending.result()
        assert job.record().state == "stopped"


def test_nobody_without_the_secret_changes_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    with daemon(tiny_plan(HALVES), monkeypatch) as (_, record):
        for path, body in (("plan", {"plan": {}}), ("drain", {"node": "a"}), ("stop", {"grace_s": 0.0})):
            response = httpx.post(f"{record.url}/helix/control/{path}", json=body)
            assert response.status_code == 403
            assert record.token not in response.text
        assert fetch_status(record.url).state == "ready"


def _long() -> dict[str, object]:
    return {"model": "tiny", "prompt": [3, 5], "max_tokens": 200, "stream": True, "ignore_eos": True}
