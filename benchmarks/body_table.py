"""What one large body costs others: seconds to its answer, and the slowest ``/health`` meanwhile.

    python -m benchmarks.body_table

A real server on a loopback port, in a process of its own, over a token service that answers at once. Every shape holds
about four million bytes and one mistake at its end.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import httpx

BYTES = 4_000_000
HEAD = '{"model":"tiny","max_tokens":4,'


def _repeated(head: str, item: str, tail: str) -> bytes:
    room = BYTES - len(head) - len(tail)
    return (head + item * (room // len(item)) + tail).encode()


def _numbered(head: str, tail: str) -> bytes:
    return (head + ",".join(f'"{number}":1' for number in range(370_000)) + tail).encode()


SHAPES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "token ids, then text": ("completions", lambda: _repeated(HEAD + '"prompt":[', "1,", '"a"]}')),
    "texts, then a number": ("completions", lambda: _repeated(HEAD + '"prompt":[', '"a",', "1]}")),
    "lists of one id": ("completions", lambda: _repeated(HEAD + '"prompt":[', "[1],", '["a"]]}')),
    "lists in lists": ("completions", lambda: _repeated(HEAD + '"prompt":', "[", "")),
    "one text, cut off": ("completions", lambda: _repeated(HEAD + '"prompt":"', "a", "")),
    "stop strings": ("completions", lambda: _repeated(HEAD + '"prompt":"a","stop":[', '"a",', '"b"]}')),
    "logit biases": ("completions", lambda: _numbered(HEAD + '"prompt":"a","logit_bias":{', "}}")),
    "unknown parameters": ("completions", lambda: _numbered(HEAD + '"prompt":"a",', "}")),
    "one long number": ("completions", lambda: _repeated(HEAD + '"prompt":[', "9", "]}")),
    "messages": ("chat/completions", lambda: _repeated(HEAD + '"messages":[', '{"role":"user","content":""},', "{}]}")),
    "parts of a message": (
        "chat/completions",
        lambda: _repeated(HEAD + '"messages":[{"role":"user","content":[', '{"type":"text","text":""},', "{}]}]}"),
    ),
}
"""By name, the endpoint and what makes the body."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one body: its answer's status and code, seconds to it, and the slowest ``/health`` in milliseconds."""

    status: int
    code: str
    seconds: float
    health_ms: float


async def cost(client: httpx.AsyncClient, endpoint: str, body: bytes) -> Cost:
    """Send a body, and ask for health until it is answered."""
    headers = {"Content-Type": "application/json"}
    before = time.perf_counter()
    answer = asyncio.create_task(client.post(f"/v1/{endpoint}", content=body, headers=headers))
    slowest_s = 0.0
    while not answer.done():
        asked = time.perf_counter()
        await client.get("/health")
        slowest_s = max(slowest_s, time.perf_counter() - asked)
        await asyncio.sleep(0.005)
    response = await answer
    return Cost(response.status_code, response.json()["error"]["code"], time.perf_counter() - before, slowest_s * 1000)


def _serve(listener: socket.socket) -> None:
    from helix_df.runtime.jobs.daemon import api_server
    from tests.api.fakes import FakeService, text_service

    async def serve() -> None:
        await api_server(text_service(FakeService())).serve(sockets=[listener])

    asyncio.run(serve())


async def _measure(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        while True:
            with suppress(httpx.ConnectError):
                await client.get("/health")
                break
            await asyncio.sleep(0.1)
        print(f"{'body':22} {'bytes':>10}  status  {'code':26} {'seconds':>7}  slowest /health, ms")
        for name, (endpoint, make) in SHAPES.items():
            body = make()
            found = await cost(client, endpoint, body)
            print(
                f"{name:22} {len(body):10,}  {found.status:6}  {json.dumps(found.code):26} {found.seconds:7.2f}"
                f"  {found.health_ms:8.0f}"
            )


def main() -> None:
    """Print the table."""
    from helix_df.runtime.jobs.daemon import bound_socket, url_of

    with bound_socket("127.0.0.1", 0) as listener:
        server = multiprocessing.get_context("fork").Process(target=_serve, args=(listener,), daemon=True)
        server.start()
        asyncio.run(_measure(url_of(listener)))
        server.terminate()
        server.join()


if __name__ == "__main__":
    main()
