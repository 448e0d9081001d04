"""Traces of a job of real processes, as a collector gets them; and its logs, an object a line."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time

import httpx
import pytest

from helix_df.layers import LayerRange
from helix_df.runtime.api.client import fetch_status
from helix_df.runtime.jobs.directory import DaemonRecord
from tests.jobs.collector import Collector, Received, collecting
from tests.jobs.test_coordinator_dies import daemon, until, workers
from tests.runtime.tiny import PLACEMENT, tiny_plan

THIRDS = {"a": LayerRange(0, 1), "b": LayerRange(1, 3), "c": LayerRange(3, 4)}
RUNTIME = {"max_batch": 4, "max_prefill_tokens": 16, "port": 0}
NAMES = ["link coordinator → a", "hop a", "link a → b", "hop b", "link b → c", "hop c", "link c → coordinator"]


@pytest.fixture(autouse=True)
def _send_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")


def ask(record: DaemonRecord, path: str, body: dict[str, object], flags: str = "01") -> tuple[str, str, httpx.Response]:
    """Ask as a part of a trace: its id, that of the client's span, and the answer."""
    trace, parent = secrets.token_hex(16), secrets.token_hex(8)
    headers = {"traceparent": f"00-{trace}-{parent}-{flags}"}
    response = httpx.post(f"{record.url}{path}", json={"model": "tiny"} | body, headers=headers, timeout=120)
    assert response.status_code == 200, response.text
    return trace, parent, response


def root_of(collector: Collector, trace: str, parent: str, answers: int = 1) -> Received:
    """The span of a request, once all of its trace has come."""
    until(lambda: collector.named(trace, "POST") and len(collector.named(trace, "text_completion")) == answers)
    (root,) = [span for span in collector.of(trace) if span.parent == parent]
    return root


def check_times(collector: Collector, span: Received) -> None:
    """Nothing takes less than no time, or is outside of what it is a part of."""
    assert span.seconds >= 0
    for child in collector.below(span):
        assert span.start_s - 1e-3 <= child.start_s
        assert child.stop_s <= span.stop_s + 1e-3
        check_times(collector, child)


def test_a_trace_has_all_hops_and_their_sum_is_the_requests_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as collector:
        runtime = RUNTIME | {"traces": {"endpoint": collector.url}, "log_format": "json", "access_log": True}
        with daemon(tiny_plan(THIRDS, runtime=runtime), monkeypatch) as (job, record):
            long = {"prompt": list(range(40)), "max_tokens": 150, "ignore_eos": True}
            until(lambda: not sum(node.cold_shapes for node in fetch_status(record.url).nodes))
            for _ in range(2):
                trace, parent, response = ask(record, "/v1/completions", long)
                root = root_of(collector, trace, parent)
            check_times(collector, root)
            (generation,) = collector.below(root)
            assert generation.name == "text_completion tiny"
            queue, attempt = collector.below(generation)
            assert (queue.name, attempt.name) == ("queue", "attempt 1")
            prefill, decode = collector.below(attempt)
            assert [span.name for span in collector.below(prefill)] == NAMES
            assert [span.name for span in collector.below(decode)] == ["coordinator", *NAMES]
            leaves = collector.leaves(root)
            assert sum(span.seconds for span in leaves) == pytest.approx(root.seconds, rel=0.05)
            assert root.seconds == pytest.approx(response.elapsed.total_seconds(), rel=0.25, abs=0.1)
            hops = [span for span in leaves if span.name.startswith("hop")]
            assert [span.attributes["helix_df.node"] for span in hops] == ["a", "b", "c"] * 2
            assert [span.attributes["helix_df.steps"] for span in hops] == [1] * 3 + [149] * 3
            for span in hops:
                parts = span.attributes["helix_df.hop.queue_s"] + span.attributes["helix_df.hop.compute_s"]
                assert parts == pytest.approx(span.seconds, abs=1e-4)
            said = generation.attributes
            assert (said["gen_ai.usage.input_tokens"], said["gen_ai.usage.output_tokens"]) == (40, 150)
            assert said["gen_ai.response.finish_reasons"] == ["length"]
            assert said["gen_ai.latency.time_in_model_prefill"] == pytest.approx(prefill.seconds, abs=1e-4)
            assert said["gen_ai.latency.time_in_queue"] == pytest.approx(queue.seconds, abs=1e-4)
            assert collector.faults == []

            before = {span.trace for span in collector.spans}
            dark, _, _ = ask(record, "/v1/completions", long, flags="00")
            several, parent, _ = ask(record, "/v1/completions", {"prompt": [[1, 2], [3, 4]], "n": 2, "max_tokens": 4})
            both = collector.below(root_of(collector, several, parent, answers=4))
            assert len(both) == 4
            assert {span.trace for span in collector.spans} - before == {several}
            assert dark not in {span.trace for span in collector.spans}

            lines = {name: job.log_path(name).read_text().splitlines() for name in ("coordinator", *THIRDS)}
            said_by = {name: [json.loads(line) for line in found if line] for name, found in lines.items()}
            assert {line["node"] for name in THIRDS for line in said_by[name]} == set(THIRDS)
            assert {line["role"] for name in THIRDS for line in said_by[name]} == {"worker"}
            (access,) = [line for line in said_by["coordinator"] if line.get("trace_id") == trace]
            assert (access["role"], access["status"], access["path"]) == ("coordinator", 200, "/v1/completions")
            assert access["request_id"] == response.headers["x-request-id"] == root.attributes["helix_df.request_id"]
            shown = subprocess.run(
                [sys.executable, "-m", "helix_df", "logs", "tiny", "--node", "coordinator", "--tail", "100000"],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            assert " INFO helix_df.access: 127.0.0.1 POST '/v1/completions' 200 " in shown
            assert f"{access['request_id']} [trace_id {trace}]\n" in shown
            assert '{"time"' not in shown


def test_a_lost_worker_is_an_attempt_and_the_next_one_has_all_hops(monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as collector:
        plan = tiny_plan(PLACEMENT, runtime=RUNTIME | {"traces": {"endpoint": collector.url}})
        with daemon(plan, monkeypatch) as (_, record):
            until(lambda: not sum(node.cold_shapes for node in fetch_status(record.url).nodes))
            trace, parent = secrets.token_hex(16), secrets.token_hex(8)
            body = {"model": "tiny", "prompt": [1, 7, 9], "max_tokens": 250, "ignore_eos": True, "stream": True}
            headers = {"traceparent": f"00-{trace}-{parent}-01"}
            url, pids, killed, tokens = f"{record.url}/v1/completions", workers(record), "", 0
            with httpx.stream("POST", url, json=body, headers=headers, timeout=120) as response:
                for line in response.iter_lines():
                    tokens += line.startswith("data: {")
                    if tokens > 10 and not killed:
                        running = [node.name for node in fetch_status(record.url).nodes if node.running]
                        killed = running[-1]
                        os.kill(pids[killed], signal.SIGKILL)
            root = root_of(collector, trace, parent)
            check_times(collector, root)
            (generation,) = collector.below(root)
            parts = collector.below(generation)
            assert [span.name for span in parts] == ["queue", "attempt 1", "queue", "attempt 2"]
            first, again, second = parts[1:]
            assert (first.status, first.words, again.attributes["helix_df.after"]) == (2, "lost", "lost")
            assert (second.status, second.attributes["helix_df.attempt.end"]) == (0, "last_token")
            hops = [[leaf for leaf in collector.leaves(one) if leaf.name.startswith("hop")] for one in (first, second)]
            lost, done = [{leaf.attributes["helix_df.node"] for leaf in found} for found in hops]
            assert killed not in lost | done
            assert lost, "those who are left tell of it"
            route = {hop.partition(" ")[0] for hop in second.attributes["helix_df.route"]}
            assert done == route
            links = [leaf for leaf in collector.leaves(second) if leaf.name.startswith("link")]
            assert len(links) == 2 * (len(route) + 1)
            assert sum(leaf.seconds for leaf in collector.leaves(second)) == pytest.approx(second.seconds, rel=0.05)
            assert generation.attributes["helix_df.attempts"] == 2
            assert generation.attributes["gen_ai.usage.output_tokens"] == 250


def test_a_job_serves_while_its_collector_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    halves = {"a": LayerRange(0, 2), "b": LayerRange(2, 4)}
    plan = tiny_plan(halves, runtime=RUNTIME | {"traces": {"endpoint": "http://127.0.0.1:9"}})
    with daemon(plan, monkeypatch) as (job, record):
        for _ in range(3):
            ask(record, "/v1/completions", {"prompt": [1, 2], "max_tokens": 3})
        until(lambda: "traces" in job.log_path().read_text() or "spans" in job.log_path().read_text())
        ask(record, "/v1/completions", {"prompt": [1, 2], "max_tokens": 3})
        began = time.monotonic()
    assert time.monotonic() - began < 30
    assert job.record().state == "stopped"
