"""Connections are bounded: in number, in what they send before a request is whole, and in the time that it takes."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import pytest

from helix_df.runtime.api.connections import ConnectionLimits, raise_descriptor_limit
from helix_df.runtime.jobs.daemon import api_server, bound_socket, url_of
from helix_df.runtime.log_files import Seldom
from tests.api.fakes import READY, FakeService, text_service

QUICK = ConnectionLimits(connections=4, head_s=0.2, body_s=0.2, idle_s=1, write_s=0.2)
BODY = json.dumps({"model": "tiny", "prompt": "p", "stream": True}).encode()
POST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
WHOLE = POST + f"Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY
HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass
class Raw:
    """A connection of bytes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    url: str

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> str:
        return (await self.reader.readuntil(b"\r\n\r\n")).decode()

    async def rest(self) -> str:
        """All that comes until the server closes."""
        try:
            return (await asyncio.wait_for(self.reader.read(), 20)).decode()
        except ConnectionResetError:
            return ""


@asynccontextmanager
async def serving(
    service: FakeService, limits: ConnectionLimits, **more: Any
) -> AsyncIterator[Callable[[], asyncio.Future[Raw]]]:
    """A server with these limits, and what opens a connection to it; ``more`` is as for ``api_server``."""
    opened: list[Raw] = []
    with bound_socket("127.0.0.1", 0) as listener:
        server = api_server(text_service(service), limits=limits, **more)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        address = urlsplit(url_of(listener))

        async def connect() -> Raw:
            opened.append(Raw(*await asyncio.open_connection(address.hostname, address.port), url_of(listener)))
            return opened[-1]

        yield lambda: asyncio.ensure_future(connect())
        for raw in opened:
            raw.writer.close()
        server.should_exit = True
        service.go_on.set()
        await task


def error_of(text: str) -> tuple[int, str]:
    """Status and code of a refusal."""
    head, _, body = text.partition("\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["code"]


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"GET /health HTTP/1.1\r\nHost", 408, "request_timeout"),
        (POST + b"Content-Length: 100\r\n\r\n{", 408, "request_timeout"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{", 408, "request_timeout"),
        (HEALTH[:-2] + b"".join(b"x: y\r\n" for _ in range(101)) + b"\r\n", 431, "headers_too_large"),
        (HEALTH[:-2] + b"x: " + b"y" * 20_000 + b"\r\n\r\n", 431, "headers_too_large"),
        (HEALTH[:-2] + b"x: " + b"y" * 60_000, 431, "headers_too_large"),
        (b"GET /" + b"y" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431, "headers_too_large"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "not_http"),
        (b"SSH-2.0-x\r\n\r\n", 400, "not_http"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nno\r\n", 400, "not_http"),
    ],
)
async def test_what_is_no_request_is_refused_in_time_and_the_connection_closed(
    service: FakeService, sent: bytes, status: int, code: str
) -> None:
    async with serving(service, QUICK) as connect:
        raw = await connect()
        raw.send(sent)
        assert error_of(await raw.rest()) == (status, code)
        assert not service.requests


async def test_a_silent_connection_is_closed(service: FakeService) -> None:
    async with serving(service, QUICK) as connect:
        assert await (await connect()).rest() == ""


async def test_half_a_head_after_an_answer_is_closed_too(service: FakeService) -> None:
    async with serving(service, QUICK) as connect:
        raw = await connect()
        raw.send(HEALTH)
        assert "200" in await raw.head()
        raw.send(HEALTH[:9])
        assert "408" in await raw.rest()


async def test_a_slow_request_that_is_in_time_is_served(service: FakeService) -> None:
    async with serving(service, replace(QUICK, head_s=30, body_s=30)) as connect:
        raw = await connect()
        for byte in WHOLE:
            raw.send(bytes([byte]))
            await raw.writer.drain()
        assert "200" in await raw.head()


async def test_two_requests_at_once_on_one_connection_are_both_answered(service: FakeService) -> None:
    async with serving(service, QUICK) as connect:
        raw = await connect()
        raw.send(HEALTH + HEALTH + HEALTH[:20])
        assert (await raw.rest()).count("HTTP/1.1 200") == 2


async def test_silent_connections_give_way_to_new_ones(service: FakeService) -> None:
    async with serving(service, replace(QUICK, head_s=1000)) as connect:
        silent = [await connect() for _ in range(4)]
        for raw in silent[::2]:
            raw.send(HEALTH[:9])
        late = await connect()
        late.send(HEALTH)
        assert "200" in await late.head()
        assert await silent[0].rest() == "", "the oldest went"


async def test_too_many_streams_are_refused_at_once_and_those_that_run_go_on(service: FakeService) -> None:
    service.pause_after = 2
    async with serving(service, QUICK) as connect:
        streams = [await connect() for _ in range(4)]
        for raw in streams:
            raw.send(WHOLE)
            assert "200" in await raw.head()
        late = await connect()
        late.send(WHOLE)
        assert error_of(await late.rest()) == (503, "too_many_connections")
        service.go_on.set()
        for raw in streams:
            assert "[DONE]" in (await raw.reader.readuntil(b"[DONE]")).decode()
        assert service.open == 0


async def test_who_reads_nothing_of_an_answer_is_dropped_and_its_request_with_it(service: FakeService) -> None:
    service.answer = "x" * 400_000
    async with serving(service, QUICK) as connect:
        raw = await connect()
        transport: Any = raw.writer.transport
        transport.pause_reading()
        body = json.dumps({"model": "tiny", "prompt": "p", "max_tokens": 190, "n": 100, "stream": True}).encode()
        raw.send(POST + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await asyncio.wait_for(service.ended.wait(), 20)
        while service.open:
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("sent", "full"), [(HEALTH, False), (HEALTH * 500, False), (WHOLE, True), (WHOLE * 100, False), (WHOLE * 100, True)]
)
async def test_who_asks_without_end_and_reads_nothing_is_dropped(service: FakeService, sent: bytes, full: bool) -> None:
    service.status = replace(READY, waiting=7 if full else 0)
    async with serving(service, QUICK, max_queue=7) as connect:
        other = urlsplit((await connect()).url)
        with socket.socket() as endless:
            endless.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            endless.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(endless, (other.hostname, other.port))

            async def ask() -> None:
                while True:
                    await loop.sock_sendall(endless, sent)

            with pytest.raises(ConnectionError):
                await asyncio.wait_for(ask(), 60)
        raw = await connect()
        raw.send(HEALTH)
        assert "200" in await raw.head()
        assert service.open == 0


async def test_the_rest_of_a_body_that_is_too_large_is_not_awaited(service: FakeService) -> None:
    async with serving(service, replace(QUICK, body_s=1000)) as connect:
        raw = await connect()
        raw.send(POST + b"Content-Length: 1000000000\r\n\r\n{")
        assert "413" in await raw.rest()


async def test_a_lack_of_descriptors_is_one_line_in_the_log(
    service: FakeService, caplog: pytest.LogCaptureFixture
) -> None:
    seldom = Seldom()
    logging.getLogger("asyncio").addFilter(seldom)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        async with serving(service, QUICK) as connect:
            raw = await connect()
            raw.send(HEALTH)
            await raw.head()
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # the server can accept nobody
            with pytest.raises(OSError, match="Too many open files"):
                await connect()
            raw.send(HEALTH)
            assert "200" in await raw.head()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        logging.getLogger("asyncio").removeFilter(seldom)


def test_the_descriptors_of_the_process_bound_its_connections() -> None:
    assert ConnectionLimits().within(100_000) == ConnectionLimits()
    assert ConnectionLimits().within(1024).connections == 896
    assert ConnectionLimits().within(64).connections == 16
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        assert raise_descriptor_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= soft
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_same_line_of_a_log_comes_seldom() -> None:
    now = 100.0
    seldom = Seldom(every_s=5, clock=lambda: now)

    def said(words: str) -> str | None:
        record = logging.LogRecord("x", logging.ERROR, "", 0, words, None, None)
        return record.getMessage() if seldom.filter(record) else None

    assert said("no room\nsocket 1") == "no room\nsocket 1"
    assert [said("no room\nsocket 2") for _ in range(3)] == [None] * 3
    assert said("another") == "another"
    now = 105.0
    assert said("no room\nsocket 3") == "no room\nsocket 3 (and 3 times since the last line)"


async def test_health_beside_half_open_connections(service: FakeService) -> None:
    async with serving(service, ConnectionLimits(connections=200)) as connect:
        half = [await connect() for _ in range(300)]
        for raw in half:
            raw.send(HEALTH[:9])
        raw = await connect()
        raw.send(HEALTH)
        assert "200" in await raw.head()
