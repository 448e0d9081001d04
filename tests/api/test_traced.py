"""Requests with spans of their own: whose trace they are a part of, which are traced, and a collector that is away."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from helix_df.errors import RequestError
from helix_df.runtime.api.app import create_app
from helix_df.runtime.jobs.otlp import FLUSH_S, OtlpTraces
from helix_df.runtime.log_lines import JsonLines
from helix_df.runtime.tracing.spans import TimedSpan
from tests.api.fakes import FakeService, text_service
from tests.jobs.collector import Collector, collecting

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


@pytest.fixture
async def traces(collector: Collector) -> AsyncIterator[OtlpTraces]:
    sending = OtlpTraces("job", f"{collector.url}/v1/traces")
    yield sending
    await sending.close()


def client_of(service: FakeService, traces: OtlpTraces, *, access_log: bool = False) -> httpx.AsyncClient:
    app = create_app(text_service(service), tracer=traces, access_log=access_log)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


def context(flags: str = "01") -> dict[str, str]:
    return {"traceparent": f"00-{TRACE}-{PARENT}-{flags}"}


async def test_a_request_is_a_part_of_its_clients_trace(
    service: FakeService, collector: Collector, traces: OtlpTraces
) -> None:
    async with client_of(service, traces) as client:
        headers = context() | {"X-Request-Id": "mine", "tracestate": "vendor=1"}
        assert (await client.post("/v1/chat/completions", json=CHAT, headers=headers)).status_code == 200
        for path in ("/v1/models", "/health", "/metrics"):
            await client.get(path, headers=context())
        service.refusal = RequestError("full", status=503)
        assert (await client.post("/v1/chat/completions", json=CHAT, headers=context())).status_code == 503
    said = service.requests[0].traceparent
    assert said.split("-")[1] == TRACE
    traces.tell(said, TimedSpan("inside", time.monotonic() - 1, time.monotonic(), {"n": 1}, error="lost"))
    await traces.close()
    assert collector.faults == []
    span, refused = collector.named(TRACE, "POST")
    assert (span.name, span.parent, span.kind, span.status) == ("POST /v1/chat/completions", PARENT, 2, 0)
    assert said == f"00-{TRACE}-{span.id}-01"
    assert span.attributes["http.response.status_code"] == 200
    assert span.attributes["gen_ai.operation.name"] == "chat"
    assert span.attributes["gen_ai.request.model"] == "tiny"
    assert span.attributes["helix_df.request_id"] == "mine"
    assert span.resource["service.name"] == "helix-df"
    assert span.resource["helix_df.job"] == "job"
    assert (refused.status, refused.words, refused.attributes["http.response.status_code"]) == (2, "503", 503)
    (inside,) = collector.named(TRACE, "inside")
    assert (inside.parent, inside.status, inside.words, inside.attributes) == (span.id, 2, "lost", {"n": 1})
    assert inside.seconds == pytest.approx(1, abs=0.01)
    assert abs(inside.stop_s - time.time()) < 60
    assert len(collector.spans) == 3, "what asks for no tokens isn't traced"


async def test_whose_client_isnt_traced_isnt_either(
    service: FakeService, collector: Collector, traces: OtlpTraces
) -> None:
    async with client_of(service, traces) as client:
        for headers in (context("00"), {"traceparent": "nonsense"}, {}):
            assert (await client.post("/v1/chat/completions", json=CHAT, headers=headers)).status_code == 200
    await traces.close()
    untraced, *others = [request.traceparent for request in service.requests]
    assert untraced is None
    assert {span.trace for span in collector.spans} == {one.split("-")[1] for one in others}
    assert TRACE not in {span.trace for span in collector.spans}
    assert [span.parent for span in collector.spans] == ["", ""]


async def test_a_client_of_opentelemetrys_own_finds_its_span_as_parent(
    service: FakeService, collector: Collector, traces: OtlpTraces
) -> None:
    headers: dict[str, str] = {}
    with TracerProvider().get_tracer("client").start_as_current_span("asking") as asking:
        TraceContextTextMapPropagator().inject(headers)
    async with client_of(service, traces) as client:
        await client.post("/v1/completions", json={"model": "tiny", "prompt": "Hi"}, headers=headers)
    await traces.close()
    asked = asking.get_span_context()
    (span,) = collector.spans
    assert (span.trace, span.parent) == (trace.format_trace_id(asked.trace_id), trace.format_span_id(asked.span_id))


async def test_the_job_says_which_share_and_the_environment_where_and_how(
    service: FakeService, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20secret")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    traces = OtlpTraces("job", sample=0.0)
    async with client_of(service, traces) as client:
        await client.post("/v1/chat/completions", json=CHAT)
        await client.post("/v1/chat/completions", json=CHAT, headers=context())
    await traces.close()
    assert [span.trace for span in collector.spans] == [TRACE], "a client's word counts more than a share"
    assert collector.spans[0].resource["service.name"] == "mine"
    assert collector.headers[0]["authorization"] == "Bearer secret"
    assert collector.headers[0]["Content-Encoding"] == "gzip"
    assert collector.faults == []
    for name, value in (("OTEL_TRACES_SAMPLER", "always_off"), ("OTEL_SDK_DISABLED", "true")):
        with monkeypatch.context() as environment:
            environment.setenv(name, value)
            off = OtlpTraces("job")
            assert off.begin(context(), "POST /", {}) is None
            await off.close()


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """That spans couldn't be sent."""
    sender = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
    return [record.getMessage() for record in caplog.records if record.name == sender]


@pytest.mark.parametrize("away", ["closed", "silent", "broken"])
async def test_a_collector_that_is_away_costs_a_line_and_no_request(
    away: str, collector: Collector, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "64")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16")
    collector.status = 503
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # takes connections, and says nothing
        port = deaf.getsockname()[1]
        if away == "closed":
            deaf.close()
        traces = OtlpTraces("job", f"{collector.url}/v1/traces" if away == "broken" else f"http://127.0.0.1:{port}/")
        began, cpu = time.monotonic(), time.thread_time()
        with caplog.at_level(logging.INFO):
            for _ in range(2000):
                span = traces.begin(context(), "POST /", {})
                assert span is not None
                traces.tell(span.traceparent, TimedSpan("inside", 0.0, 1.0))
                span.end({})
            each_s = (time.thread_time() - cpu) / 2000
            assert each_s < 0.002
            while not told(caplog):
                assert time.monotonic() - began < 60
                await asyncio.sleep(0.02)
            closing = time.monotonic()
            await traces.close()
        assert time.monotonic() - closing < 2 * FLUSH_S + 1
    assert len(told(caplog)) <= 8


async def test_access_lines_name_request_and_trace(
    service: FakeService, traces: OtlpTraces, caplog: pytest.LogCaptureFixture
) -> None:
    lines: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    kept = Kept()
    kept.setFormatter(JsonLines("coordinator"))
    access = logging.getLogger("helix_df.access")
    access.addHandler(kept)
    try:
        with caplog.at_level(logging.INFO, "helix_df.access"):
            async with client_of(service, traces, access_log=True) as client:
                headers = context() | {"X-Request-Id": "mine"}
                await client.post("/v1/chat/completions", json=CHAT, headers=headers)
                await client.get("/v1/nothing%0Ahere")
    finally:
        access.removeHandler(kept)
    first, second = map(json.loads, lines)
    assert (first["request_id"], first["trace_id"], first["status"]) == ("mine", TRACE, 200)
    assert (first["method"], first["path"], first["role"], first["level"]) == (
        "POST",
        "/v1/chat/completions",
        "coordinator",
        "INFO",
    )
    assert 0 < first["duration_s"] < 60
    assert (second["status"], second["path"]) == (404, "/v1/nothing\nhere")
    assert "trace_id" not in second
    assert second["request_id"].startswith("req_")
    assert "\n" not in caplog.messages[-1]
    assert caplog.messages[0].endswith("mine")
