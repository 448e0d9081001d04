"""A full queue is a 429 at once that says when to come again; a request may say how long it waits."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest

from helix_df.runtime.api.app import create_app
from helix_df.runtime.api.overload import LONGEST_S, UNKNOWN_S, Drain, whole_seconds
from tests.api.fakes import READY, FakeService, queue_full, text_service

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
