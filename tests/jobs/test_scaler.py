"""Nodes that come and go as they are needed, under a job of real processes."""

from __future__ import annotations

import pytest

from helix_df import deployment
from helix_df.plan.plan import Plan, read_plan
from helix_df.plan.sizes import size_of, whole
from helix_df.planning import make_plan
from helix_df.runtime.api.client import fetch_status
from helix_df.runtime.jobs.directory import DaemonRecord, JobDirectory
from helix_df.spec.job import Job
from tests.jobs.test_coordinator_dies import answer, daemon, kill_the_coordinator, until, workers
from tests.jobs.test_rolling_change import under_load

NODES = {"base": {"gpu": "toy"}, "spot": {"gpu": "toy", "count": 2}}


def job(**scale: object) -> Job:
    # A node's cache holds one answer at a time, so that others wait.
    profile = {"tokens_per_s": [400, 200, 130, 100], "kv_tokens": [64, 48, 40, 32]}
    return Job.model_validate(
        {
            "name": "tiny",
            "model": {"source": "random:tiny", "context": 32},
            "gpus": {"toy": {"memory": "1GiB", "profile": profile}},
            "nodes": NODES,
            "links": {"default": {"bandwidth": "10Gbps", "latency": "1ms"}},
            "workload": {"input_length": 3, "output_length": 24},
            "runtime": {"max_batch": 4, "max_prefill_tokens": 16, "port": 0},
            "solver": {"name": "auto", "time_limit": "2s"},
            "scale": {"nodes": ["spot-*"], "queue_time": "200ms", "up_after": "1s", "down_after": "3s", **scale},
        }
    )


def size(directory: JobDirectory) -> int:
    return size_of(read_plan(directory.plan_path).job)


def serving(record: DaemonRecord) -> set[str]:
    return {node.name.partition(".")[0] for node in fetch_status(record.url).nodes if node.role == "serving"}


def shown(record: DaemonRecord) -> str:
    return fetch_status(record.url).scaled


def test_nodes_go_while_little_is_asked_and_come_back_when_requests_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Plan = make_plan(job())
    with daemon(asked, monkeypatch) as (directory, record):
        assert size(directory) == 2
        alone = answer(record.url, 0)
        until(lambda: size(directory) == 0)
        until(lambda: workers(record).keys() == serving(record))
        assert serving(record) == {"base"}
        assert shown(record).startswith("2 → 0 nodes that come and go: ")
        assert deployment.asked_plan("tiny") == asked, "an `apply` of the same job changes nothing"
        with under_load(record, 12) as wrong:
            until(lambda: size(directory) > 0)
            assert "a request has waited" in shown(record)
            assert not wrong
        record = kill_the_coordinator(directory)
        assert answer(record.url, 0) == alone
        until(lambda: size(directory) == 0)
        assert whole(read_plan(directory.plan_path).job) == asked.job
        assert deployment.asked_plan("tiny") == asked
        deployment.change(make_plan(job(min=1)))
        until(lambda: size(directory) == 1)
        assert deployment.asked_plan("tiny").job.scale.min == 1
        assert answer(record.url, 0) == alone


def test_a_job_whose_nodes_stay_has_no_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = make_plan(job().model_copy(update={"scale": None}))
    with daemon(fixed, monkeypatch) as (directory, record):
        assert answer(record.url, 1)
        assert shown(record) == ""
        assert not directory.sizes_path.exists()
