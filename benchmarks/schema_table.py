"""Requests that schemathesis makes from ``/openapi.json``, right and wrong ones, against a job that serves.

    python -m benchmarks.schema_table [--requests 100000] [--seed 1]

The job is that of ``crowd_table``: a coordinator and workers in one process, with engines that compute nothing, behind
a real server. Every answer is checked against the document; a 500, or one that it doesn't allow, ends the run with the
request. Meanwhile a client in a process of its own streams answers, and notes the gaps between tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import time
from collections import Counter
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path

import httpx
import numpy as np
import requests
import schemathesis

from benchmarks.crowd_table import EndingEngine, crowd_plan
from helix_df.models.tokenizer import load_tokenizer
from helix_df.runtime.api.generation import TextService
from helix_df.runtime.coordinator.shell import context_of
from helix_df.runtime.jobs.coordinators import new_coordinator
from helix_df.runtime.jobs.daemon import api_server, bound_socket, url_of
from tests.api.by_schema import MODES, operations, run_cases

MODEL = "tiny"
BATCH = 500
STALL_S = 0.25


async def _serve(told: Connection, stop: Event) -> None:
    plan = crowd_plan()
    tokenizer = load_tokenizer(plan.job.model.parsed_source)
    end = min(tokenizer.eos_ids)
    coordinator = new_coordinator(
        plan, embedded=True, build_engine=lambda welcome, _report: EndingEngine(welcome.num_layers, 64, end)
    )
    await coordinator.start()
    try:
        await coordinator.wait_ready(120)
        text = TextService(coordinator, tokenizer, model_name=MODEL, context=context_of(plan))
        with bound_socket("127.0.0.1", 0) as listener:
            server = api_server(text)
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            told.send(url_of(listener))
            await asyncio.to_thread(stop.wait)
            server.should_exit = True
            await serving
    finally:
        await coordinator.close()


def serve(told: Connection, stop: Event) -> None:
    """Run the job until ``stop``; its URL is told."""
    asyncio.run(_serve(told, stop))


def stream(url: str, told: Connection, stop: Event) -> None:
    """Stream answers until ``stop``; the gaps between tokens are told, in seconds."""
    body = {"model": MODEL, "prompt": "a", "max_tokens": 200, "ignore_eos": True, "stream": True}
    gaps: list[float] = []
    with httpx.Client(base_url=url, timeout=60) as client:
        while not stop.is_set():
            with client.stream("POST", "/v1/completions", json=body) as response:
                last = None
                for _ in response.iter_lines():
                    now = time.perf_counter()
                    gaps += [] if last is None else [now - last]
                    last = now
    told.send(gaps)


def memory_mb(pid: int) -> float:
    """Resident memory of a process."""
    text = Path(f"/proc/{pid}/status").read_text("utf-8")
    return int(text.partition("VmRSS:")[2].split()[0]) / 1024


def send_all(url: str, wanted: int, first_seed: int) -> None:
    """Send that many requests, and print what came of them by operation and mode."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    asked = [one for one in operations(schema) if one.method == "post"]
    rows = list(itertools.product(asked, MODES))
    found: dict[tuple[str, str], Counter[int]] = {(one.label, mode.value): Counter() for one, mode in rows}
    sent = 0
    with requests.Session() as session:
        for number in itertools.count(first_seed):
            for one, mode in rows:
                count = min(BATCH, wanted - sent)
                if count <= 0:
                    break
                statuses = run_cases(one, mode, count, number, lambda case: case.call(base_url=url, session=session))
                found[one.label, mode.value] += statuses
                sent += max(count, statuses.total())
            else:
                continue
            break
    print("| requests to | made | requests | by status |\n|---|---|---|---|")
    for (label, mode_name), statuses in found.items():
        print(f"| {label} | {mode_name} | {statuses.total():,} | {json.dumps(dict(sorted(statuses.items())))} |")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    stop, no_more = context.Event(), context.Event()
    here, there = context.Pipe()
    server = context.Process(target=serve, args=(there, stop), daemon=True)
    server.start()
    url = here.recv()
    heard, telling = context.Pipe()
    watcher = context.Process(target=stream, args=(url, telling, no_more), daemon=True)
    watcher.start()
    assert server.pid is not None
    send_all(url, min(1000, options.requests), options.seed + 1_000_000)  # so that memory is what it stays at
    before_mb, started = memory_mb(server.pid), time.perf_counter()
    print()
    send_all(url, options.requests, options.seed)
    seconds, after_mb = time.perf_counter() - started, memory_mb(server.pid)
    no_more.set()
    gaps = np.array(heard.recv())
    print(f"\n{seconds:.0f} s; memory {before_mb:.0f} MB before, {after_mb:.0f} MB after")
    middle, high, most = np.quantile(gaps, [0.5, 0.99, 1]) * 1000
    stalls = int((gaps > STALL_S).sum())
    print(
        f"{len(gaps):,} gaps between tokens: p50 {middle:.1f}, p99 {high:.0f}, most {most:.0f} ms; {stalls} over 250 ms"
    )
    stop.set()
    watcher.join(10)
    server.join(20)


if __name__ == "__main__":
    main()
