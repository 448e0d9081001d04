"""A real Prometheus scrapes a running job: every query of our dashboard finds data, and so does what vLLM's ask for."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.jobs.test_coordinator_dies import HALVES, answer, daemon, until
from tests.runtime.tiny import tiny_plan

MONITORING = Path(__file__).parents[2] / "packaging" / "monitoring"

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="there is no prometheus here (Debian: prometheus)",
)

VLLM = (
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:request_success_total",
    "vllm:time_to_first_token_seconds_bucket",
    "vllm:inter_token_latency_seconds_bucket",
    "vllm:e2e_request_latency_seconds_bucket",
    "vllm:e2e_request_latency_seconds_sum",
    "vllm:e2e_request_latency_seconds_count",
    "vllm:request_queue_time_seconds_sum",
    "vllm:request_prefill_time_seconds_sum",
    "vllm:request_decode_time_seconds_sum",
    "vllm:request_inference_time_seconds_sum",
    "vllm:request_time_per_output_token_seconds_sum",
    "vllm:request_prompt_tokens_bucket",
    "vllm:request_generation_tokens_bucket",
    "vllm:request_params_max_tokens_bucket",
)
"""What the dashboards in vLLM's repository ask for, of what every job has."""


@contextmanager
def prometheus(target: str, folder: Path) -> Iterator[str]:
    """One that scrapes a job every half second, by its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shutil.copy(MONITORING / "alerts.yaml", folder / "alerts.yaml")
    (folder / "prometheus.yml").write_text(
        "global: {scrape_interval: 500ms, evaluation_interval: 500ms}\n"
        "rule_files: [alerts.yaml]\n"
        f"scrape_configs: [{{job_name: helix-df, static_configs: [{{targets: ['{target}']}}]}}]\n"
    )
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    process = subprocess.Popen(
        [*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: is_up(url))
        yield url
    finally:
        process.terminate()
        process.wait()


def is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready").status_code == 200
    except httpx.HTTPError:
        return False


def found(url: str, query: str) -> list[dict[str, Any]]:
    response = httpx.get(f"{url}/api/v1/query", params={"query": query})
    assert response.status_code == 200, (query, response.text)
    return response.json()["data"]["result"]


def queries() -> list[str]:
    """Of the dashboard, with the interval that Grafana would put in."""
    dashboard = json.loads((MONITORING / "grafana.json").read_text())
    every = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return [query.replace("$__rate_interval", "30s") for query in every]


def test_every_query_of_the_dashboards_finds_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = {"max_batch": 4, "max_prefill_tokens": 16, "port": 0, "metrics_names": "vllm"}
    plan = tiny_plan(HALVES, runtime=runtime)
    with (
        daemon(plan, monkeypatch) as (_, record),
        prometheus(record.url.removeprefix("http://"), tmp_path) as url,
    ):
        missing = set(queries()) | set(VLLM)
        deadline = time.monotonic() + 60
        number = 0
        while missing:
            assert time.monotonic() < deadline, missing
            number += 1
            answer(record.url, number % 5)
            missing = {query for query in missing if not found(url, query)}
        assert found(url, "vllm:num_requests_running")[0]["metric"]["model_name"] == "tiny"
        (ready,) = found(url, "helix_job_ready")
        assert ready["value"][1] == "1"
        assert not [one for one in found(url, "ALERTS") if one["metric"]["alertstate"] == "firing"]


def test_vllms_names_are_there_only_if_asked_for_and_say_what_ours_say(monkeypatch: pytest.MonkeyPatch) -> None:
    with daemon(tiny_plan(HALVES), monkeypatch) as (_, record):
        answer(record.url, 1)
        text = httpx.get(f"{record.url}/metrics").text
        assert "vllm:" not in text
        assert re.search(r'^helix_requests_ended_total\{reason="length"\} 1\.0$', text, re.MULTILINE)
        assert re.search(r"^helix_request_generated_tokens_sum 24\.0$", text, re.MULTILINE)
        assert re.search(r"^helix_request_prompt_tokens_sum 3\.0$", text, re.MULTILINE)
        seconds = {
            name: float(re.search(rf"^helix_request_{name}seconds_sum (\S+)$", text, re.MULTILINE)[1])
            for name in ("", "queue_", "prefill_", "decode_")
        }
        parts = seconds["queue_"] + seconds["prefill_"] + seconds["decode_"]
        assert 0 < seconds["queue_"] < 1
        assert parts == pytest.approx(seconds[""], rel=0.05, abs=0.01), "a request's time is its parts'"


def test_alerts_are_what_prometheus_reads() -> None:
    subprocess.run(["promtool", "check", "rules", str(MONITORING / "alerts.yaml")], check=True, capture_output=True)
