"""A full queue is a 429 at once that says when to come again; a request may say how long it waits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from helix_df.runtime.api.app import create_app
from helix_df.runtime.api.connections import ConnectionLimits
from helix_df.runtime.api.keys import KeyRing, add_key
from helix_df.runtime.api.overload import LONGEST_S, UNKNOWN_S, Drain, whole_seconds
from tests.api.fakes import READY, FakeService, queue_full, text_service
from tests.api.test_connections import BODY as RAW_BODY
from tests.api.test_connections import HEALTH, POST, WHOLE, error_of, serving

BODY = {"model": "tiny", "prompt": "p"}


async def test_a_full_queue_refuses_before_anything_is_read(service: FakeService) -> None:
    app = create_app(text_service(service), max_queue=7)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as http:
        service.status = replace(READY, waiting=6)
        assert (await http.post("/v1/completions", json=BODY)).status_code == 200
        service.status = replace(READY, waiting=7)
        for path in ("/v1/completions", "/v1/chat/completions"):
            refused = await http.post(path, content=b"{")
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "queue_full"
            assert refused.json()["error"]["type"] == "rate_limit_error"
            assert "7 requests wait" in refused.json()["error"]["message"]
            assert 1 <= int(refused.headers["retry-after"]) <= LONGEST_S
        assert (await http.get("/health")).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_what_the_coordinator_refuses_says_the_same(
    http: httpx.AsyncClient, service: FakeService, stream: bool
) -> None:
    service.refusal = queue_full()
    refused = await http.post("/v1/completions", json=BODY | {"stream": stream})
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == str(int(UNKNOWN_S))


def test_when_to_come_again_follows_how_fast_the_queue_drains() -> None:
    now = 0.0
    drain = Drain(lambda: now)
    assert drain.retry_after_s(100) == UNKNOWN_S
    for second in range(1, 21):
        now = second
        drain.note()
        drain.note()
    assert drain.retry_after_s(40) == pytest.approx(10, rel=0.1)
    assert drain.retry_after_s(4) == pytest.approx(1, rel=0.1)
    assert drain.retry_after_s(10_000) == LONGEST_S
    now = 100.0
    assert drain.retry_after_s(40) == UNKNOWN_S


def test_times_are_told_in_whole_seconds() -> None:
    assert [whole_seconds(value) for value in (0.0, 0.2, 1.0, 1.1)] == ["1", "1", "1", "2"]


@pytest.mark.parametrize(
    ("header", "field", "expected"), [(None, None, None), ("2.5", None, 2.5), (None, 4, 4), ("3", 4, 3), ("5", 4, 4)]
)
async def test_a_request_says_how_long_it_may_take(
    http: httpx.AsyncClient, service: FakeService, header: str | None, field: float | None, expected: float | None
) -> None:
    headers = {} if header is None else {"X-Request-Timeout": header}
    answer = await http.post("/v1/completions", json=BODY | {"timeout": field}, headers=headers)
    assert answer.status_code == 200
    assert service.requests[0].timeout_s == expected


@pytest.mark.parametrize("header", ["", "soon", "0", "-1", "nan", "inf", "1e9"])
async def test_a_header_that_is_no_time_is_refused(http: httpx.AsyncClient, service: FakeService, header: str) -> None:
    answer = await http.post("/v1/completions", json=BODY, headers={"X-Request-Timeout": header})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "X-Request-Timeout"
    assert not service.requests


FULL = replace(READY, waiting=7)
PATIENT = ConnectionLimits(head_s=30, body_s=30)


async def test_a_connection_goes_on_after_a_refusal(service: FakeService) -> None:
    async with serving(service, PATIENT, max_queue=7) as connect:
        raw = await connect()
        service.status = FULL
        for _ in range(3):
            raw.send(WHOLE)
            head = await raw.head()
            assert head.startswith("HTTP/1.1 429 Too Many Requests\r\n")
            assert "retry-after: " in head
            await raw.reader.readexactly(int(head.split("content-length: ")[1].split()[0]))
        service.status = READY
        raw.send(WHOLE)
        assert "200" in await raw.head()
        assert len(service.requests) == 1


async def test_a_body_that_comes_later_is_read_past(service: FakeService) -> None:
    async with serving(service, PATIENT, max_queue=7) as connect:
        raw = await connect()
        service.status = FULL
        raw.send(POST + b"Content-Length: 20000\r\n\r\n")
        head = await raw.head()
        assert "429" in head
        await raw.reader.readexactly(int(head.split("content-length: ")[1].split()[0]))
        raw.send(b"{" * 19_999)
        raw.send(b"{" + HEALTH)
        assert "200" in await raw.head()


@pytest.mark.parametrize(
    "sent",
    [
        POST + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}",
        POST + b"Connection: close\r\nContent-Length: 200\r\n\r\n{}",
        POST + b"Content-Length: 2000000\r\n\r\n{}",
        POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        POST + b"Connection: close\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n{}",
    ],
)
async def test_every_kind_of_request_is_refused_and_the_connection_closed(service: FakeService, sent: bytes) -> None:
    async with serving(service, PATIENT, max_queue=7) as connect:
        service.status = FULL
        raw = await connect()
        raw.send(sent)
        assert error_of(await raw.rest()) == (429, "queue_full")
        assert not service.requests


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length : 2\r\n\r\n{}",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: +2\r\n\r\n{}",
        b"POST /v1/completions HTTP/1.1\r\nno header\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
async def test_what_is_no_request_is_not_taken_for_one_because_the_queue_is_full(
    service: FakeService, sent: bytes
) -> None:
    async with serving(service, PATIENT, max_queue=7) as connect:
        service.status = FULL
        raw = await connect()
        raw.send(sent)
        assert error_of(await raw.rest()) == (400, "not_http")


async def test_requests_behind_one_that_runs_wait_for_its_answer(service: FakeService) -> None:
    service.pause_after = 2
    async with serving(service, PATIENT, max_queue=7) as connect:
        raw = await connect()
        raw.send(WHOLE)
        assert "200" in await raw.head()
        service.status = FULL
        raw.send(POST + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}")
        await service.paused.wait()
        service.go_on.set()
        first, _, second = (await raw.rest()).partition("[DONE]")
        assert "429" not in first
        assert " 429 " in second


async def test_refusals_are_counted(service: FakeService) -> None:
    async with serving(service, PATIENT, max_queue=7) as connect:
        service.status = FULL
        raw = await connect()
        raw.send(POST + f"Content-Length: {len(RAW_BODY)}\r\n\r\n".encode() + RAW_BODY)
        assert "429" in await raw.head()
        other = await connect()
        other.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        counted = 'helix_http_requests_total{endpoint="/v1/completions",status="429"} 1.0'
        assert counted in await other.rest()


async def test_a_key_is_told_of_its_own_share_and_strangers_nothing(service: FakeService, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    busy, quiet = add_key(file, "busy"), add_key(file, "quiet")
    closing = POST + b"Connection: close\r\nContent-Length: 2\r\n"
    service.status, service.waiting_of["busy"] = replace(READY, waiting=4), 4
    async with serving(service, PATIENT, max_queue=8, keys=KeyRing(file, "a" * 32)) as connect:

        async def ask(key: str) -> tuple[int, str]:
            raw = await connect()
            raw.send(closing + f"Authorization: Bearer {key}\r\n\r\n{{}}".encode())
            return error_of(await raw.rest())

        assert await ask(busy) == (429, "key_queue_full")
        assert await ask(quiet) == (400, "missing_required_parameter")
        service.status = replace(READY, waiting=8)
        assert await ask(quiet) == (429, "queue_full")
        assert await ask("nobody's") == (401, "invalid_api_key")
