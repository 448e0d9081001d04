"""Requests made from ``/openapi.json``, right and wrong ones, against a job that serves: what comes of them.

    python -m benchmarks.schema_table [--requests 100000] [--connections 24] [--corpus 300] [--seed 1]

A real daemon under its supervisor, with its journal and logs, and with engines that compute nothing
(``idle_daemon``). Schemathesis makes a corpus, and all further requests are made of that (``schema_requests``); each is
another than all before, and each answer is checked against the document. Meanwhile a client in a process of its own
streams one answer after another, and notes the gaps between tokens. Exits with 1 if an answer was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import schemathesis

from benchmarks.crowd_table import crowd_plan
from benchmarks.frames_table import log_bytes, members, memory
from benchmarks.idle_daemon import COMMAND
from benchmarks.schema_requests import Allowed, Answer, Requests, Sent, corpus
from helix_df.plan.plan import Plan
from helix_df.runtime.api.client import fetch_status
from helix_df.runtime.jobs.directory import DaemonRecord, JobDirectory
from helix_df.runtime.jobs.lifecycle import start_daemon, stop_daemon, until_ready
from helix_df.runtime.jobs.processes import command_line

MODEL = "tiny"
STALL_S = 0.25
QUIET_S = 20.0
LINK_MS = 2
"""Of emulated links, so that an answer takes as long as one does, and the stream that is watched leaves the core."""

PATIENCE_S = 60.0
WARM_UP = 0.05
"""Share of the requests after which memory is what it stays at."""

MOST_WRONG = 20


def served_plan() -> Plan:
    """That of ``crowd_table``, over links."""
    link = {"default": {"bandwidth": "10Gbps", "latency": f"{LINK_MS}ms"}}
    return crowd_plan(links=link, model={"source": "random:tiny", "name": MODEL, "context": 256}, emulate=True)


@contextmanager
def job(folder: Path) -> Iterator[tuple[JobDirectory, DaemonRecord, int]]:
    """The job: its folder, its record and its session."""
    directory = JobDirectory(folder / "crowd")
    process = start_daemon(directory, served_plan(), start_timeout_s=120, command=COMMAND)
    try:
        yield directory, until_ready(directory, process), process.pid
    finally:
        stop_daemon(directory)


def stream(url: str, told: Connection, stop: Event) -> None:
    """Stream answers until ``stop``; tells gaps between tokens, in seconds, and what wasn't an answer."""
    body = {"model": MODEL, "prompt": "a", "max_tokens": 200, "ignore_eos": True, "stream": True}
    gaps: list[float] = []
    failures: Counter[str] = Counter()
    with httpx.Client(base_url=url, timeout=60) as client:
        while not stop.is_set():
            with client.stream("POST", "/v1/completions", json=body) as response:
                last, ended = None, False
                for line in response.iter_lines():
                    ended = ended or line == "data: [DONE]"
                    if line.startswith("data: {"):
                        now = time.perf_counter()
                        gaps += [] if last is None else [now - last]
                        last = now
                failures[str(response.status_code)] += not ended
    told.send((gaps, +failures))


@contextmanager
def watched(url: str, name: str) -> Iterator[None]:
    """Stream while the block lasts; prints what was seen."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    stop = context.Event()
    watcher = context.Process(target=stream, args=(url, theirs, stop), daemon=True)
    watcher.start()
    yield
    stop.set()
    found, failures = ours.recv()
    watcher.join(10)
    gaps = np.array([*found, 0.0])
    middle, high, most = np.quantile(gaps, [0.5, 0.99, 1]) * 1000
    print(
        f"stream, {name}: {len(gaps):,} gaps between tokens, p50 {middle:.1f}, p99 {high:.0f}, most {most:.0f} ms; "
        f"{int((gaps > STALL_S).sum())} over {1000 * STALL_S:.0f} ms; failed: {dict(failures) or 0}; "
        f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores",
        flush=True,
    )


# ------------------------------------------------------------------ a client


@dataclass
class Campaign:
    """So many requests over so many connections, and what came of them."""

    url: str
    requests: Requests
    allowed: Allowed
    statuses: dict[str, Counter[int]] = field(default_factory=dict)
    sent: int = 0
    wrong: int = 0

    async def run(self, count: int, connections: int) -> None:
        """Send them all."""
        todo = iter(self.requests)
        until = self.sent + count

        async def client() -> None:
            line = _Line(self.url)
            while self.sent < until and self.wrong < MOST_WRONG:
                one = next(todo)
                self.sent += 1
                self.check(one, await line.ask(one))
            line.close()

        await asyncio.gather(*(client() for _ in range(connections)))

    def check(self, one: Sent, answer: Answer) -> None:
        """Count an answer, and tell what is wrong with it."""
        self.statuses.setdefault(one.operation, Counter())[answer.status] += 1
        wrong = self.allowed.what_is_wrong(one, answer)
        if wrong is not None:
            self.wrong += 1
            print(f"WRONG: {wrong}\n  {one!r:.700}\n  {answer!r:.400}", flush=True)
        if answer.status == 200 and one.operation.startswith("POST /v1"):
            _, found, rest = answer.body.partition(b'"id":"')
            self.requests.ids.extend([rest.partition(b'"')[0].decode()] if found else [])


class _Line:
    """One connection at a time, which is kept as long as the server keeps it."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._host, self._port = address.hostname or "", address.port or 0
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, one: Sent) -> Answer:
        """The answer; status 0 where there was none."""
        raw = one.over_the_wire(self._host)
        for attempt in (1, 2):
            is_fresh = self._reader is None
            try:
                return await asyncio.wait_for(self._exchange(raw), PATIENCE_S)
            except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
                self.close()
                if is_fresh or attempt == 2:  # else the server may have closed a connection that was idle
                    return Answer(0, {}, repr(error).encode())
        raise AssertionError

    async def _exchange(self, raw: bytes) -> Answer:
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port, limit=2**22)
        self._writer.write(raw)
        answer = await self._read(self._reader)
        if answer.headers.get("connection", "").lower() == "close":
            self.close()
        return answer

    async def _read(self, reader: asyncio.StreamReader) -> Answer:
        status = 100
        while status < 200:  # 100: go on
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            status = int(head[0].split(" ", 2)[1])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        if headers.get("transfer-encoding") == "chunked":
            body = b"".join([chunk async for chunk in _chunks(reader)])
        elif "content-length" in headers:
            body = await reader.readexactly(int(headers["content-length"]))
        else:
            body = await reader.read()
            headers["connection"] = "close"
        return Answer(status, headers, body)

    def close(self) -> None:
        """End the connection."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


async def _chunks(reader: asyncio.StreamReader):  # type: ignore[no-untyped-def]
    while size := int(await reader.readuntil(b"\r\n"), 16):
        yield (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")


# ------------------------------------------------------------------ the table


def memory_of(session: int) -> dict[str, int]:
    """Resident bytes of the supervisor and of the daemon that it watches over."""
    named = {pid: "daemon" if "--supervisor" in command_line(pid) else "supervisor" for pid in members(session)}
    return memory(named)


def table(statuses: dict[str, Counter[int]]) -> None:
    """Print what came of the requests."""
    print("| requests to | requests | by status |\n|---|---|---|")
    for label, found in sorted(statuses.items()):
        print(f"| {label} | {found.total():,} | {json.dumps(dict(sorted(found.items())))} |")
    everything = sum(statuses.values(), Counter[int]())
    print(f"| all | {everything.total():,} | {json.dumps(dict(sorted(everything.items())))} |", flush=True)


def run(count: int, connections: int, of_each: int, seed: int) -> bool:
    """The campaign; whether all was right."""
    with tempfile.TemporaryDirectory() as folder, job(Path(folder)) as (directory, record, session):
        url = str(record.url)
        document = httpx.get(f"{url}/openapi.json").json()
        started = time.perf_counter()
        made = corpus(schemathesis.openapi.from_dict(document), url, of_each, seed)
        print(f"{len(made):,} requests by schemathesis, {time.perf_counter() - started:.0f} s to make", flush=True)
        requests = Requests(document, made, str(record.token), random.Random(seed))
        campaign = Campaign(url, requests, Allowed(document))
        with watched(url, "alone"):
            time.sleep(QUIET_S)
        first = int(WARM_UP * count)
        asyncio.run(campaign.run(first, connections))
        alive, before, logged = set(members(session)), memory_of(session), log_bytes(directory)
        started = time.perf_counter()
        with watched(url, "beside the requests"):
            course = []
            for quarter in (1, 2, 3, 4):
                asyncio.run(campaign.run(first + quarter * (count - first) // 4 - campaign.sent, connections))
                course.append(memory_of(session)["daemon"])
        seconds = time.perf_counter() - started
        with watched(url, "alone again"):
            time.sleep(QUIET_S)
        after, left = memory_of(session), set(members(session))
        table(campaign.statuses)
        status = fetch_status(record.access())
        print(f"\n{campaign.sent:,} requests, each another; {(campaign.sent - first) / seconds:.0f} a second")
        print(f"the same processes live: {alive == left}; the job is {status.state}, restarts: {status.restarts}")
        for name in sorted(after):
            early, late = before.get(name, 0) / 1e6, after[name] / 1e6
            print(f"memory of the {name}: {early:.0f} MB after {first:,} requests, then {late:.0f} MB")
        print(f"of the daemon by quarters: {', '.join(f'{one / 1e6:.0f}' for one in course)} MB")
        events = sum(file.stat().st_size for file in directory.log_dir.glob("*.events*"))
        journal = sum(file.stat().st_size for file in directory.path.glob("journal.sqlite*"))
        print(f"logs: {logged / 1e3:.0f} kB, then {log_bytes(directory) / 1e3:.0f} kB", end="")
        print(f"; bounded apart: events {events / 1e6:.0f} MB, journal {journal / 1e6:.0f} MB")
        print(f"illegal events: {status.illegal_events}, refused frames: {dict(status.refused_frames) or 0}")
        print(f"wrong: {campaign.wrong}")
    return campaign.wrong == 0


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--connections", type=int, default=24)
    parser.add_argument("--corpus", type=int, default=300, help="requests by schemathesis of each operation and mode")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    return 0 if run(options.requests, options.connections, options.corpus, options.seed) else 1


if __name__ == "__main__":
    sys.exit(main())
