"""A crowd of chat clients on a job of many nodes: answers by status, and how fast ``/health`` answers beside them.

    python -m benchmarks.crowd_table [--clients 800] [--seconds 60]

24 workers in one process, eight pipelines of three, with engines that compute nothing and end an answer after some
tokens; so all the load is on the coordinator and its API. Clients are in a process of their own. Each asks for a chat
without ``max_tokens``, reads the answer, and asks again. Any status but 200 is a mistake.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import sys
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection
from urllib.parse import urlsplit

import numpy as np

from benchmarks.overhead_table import IdleEngine
from helix_df.graph.compile import compile_problem
from helix_df.graph.max_flow import placement_flow
from helix_df.layers import LayerRange
from helix_df.models.tokenizer import load_tokenizer
from helix_df.plan.plan import Plan, SolverReport, assemble
from helix_df.runtime.api.generation import TextService
from helix_df.runtime.coordinator.shell import context_of
from helix_df.runtime.jobs.coordinators import new_coordinator
from helix_df.runtime.jobs.daemon import api_server, bound_socket, url_of
from helix_df.runtime.worker.steps import Step, StepResult
from helix_df.spec.job import Job

PIPELINES = 8
STAGES = (LayerRange(0, 1), LayerRange(1, 2), LayerRange(2, 4))
MEAN_TOKENS = 12
KV_TOKENS = 16_384
HEALTH_EVERY_S = 0.2
SWITCH_S = 1e-5
"""Threads change places so often that one which reads what another changes is soon caught at it."""


class EndingEngine(IdleEngine):
    """Draws an end of text for one token in ``MEAN_TOKENS``, by the request and the position."""

    kv_tokens = KV_TOKENS

    def __init__(self, num_layers: int, hidden: int, end: int) -> None:
        super().__init__(num_layers)
        self._hidden = hidden
        self._end = end

    def run(self, steps: Sequence[Step]) -> Sequence[StepResult]:
        """See ``StepEngine``."""
        return [self._answer(step) for step in steps]

    def _answer(self, step: Step) -> StepResult:
        if step.layers.stop < self._num_layers:
            return StepResult(step.request, hidden=np.zeros((len(step.inputs), self._hidden), np.float32))
        if step.sampling is None:
            return StepResult(step.request)
        ends = zlib.crc32(f"{step.request} {step.position}".encode()) % MEAN_TOKENS == 0
        return StepResult(step.request, token=self._end if ends else 65)


def crowd_plan(*, emulate: bool = False, **changes: object) -> Plan:
    """``PIPELINES`` times ``STAGES`` of a tiny model, planned by hand; ``changes`` replace sections of the job."""
    placement = {f"n{way}{stage}": layers for way in range(PIPELINES) for stage, layers in enumerate(STAGES)}
    profile = {"tokens_per_s": [400, 200, 130, 100], "kv_tokens": [KV_TOKENS] * 4}
    job = Job.model_validate(
        {
            "name": "crowd",
            "model": {"source": "random:tiny", "context": 256},
            "gpus": {"toy": {"memory": "1GiB", "profile": profile}},
            "nodes": {name: {"gpu": "toy"} for name in placement},
            "links": {"default": {"bandwidth": "10Gbps", "latency": "1ms"}},
            "runtime": {"max_batch": 64, "port": 0, "max_queue": 10_000, "emulate": emulate},
        }
        | changes
    )
    problem = compile_problem(job)
    report = SolverReport("hand", None, "finished", "", None, 0.0)
    return assemble(job, problem, placement, placement_flow(problem, placement), report)


async def _exchange(host: str, port: int, request: bytes) -> int:
    """One HTTP request on a connection of its own; its status."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(request)
        answer = await reader.read()
        return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else 0
    finally:
        writer.close()


async def _crowd(url: str, clients: int, seconds: float, results: Connection) -> None:
    address = urlsplit(url)
    host, port = address.hostname or "", address.port or 0
    body = json.dumps({"model": "random:tiny", "messages": [{"role": "user", "content": "How do you do?"}]}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\n"
    )
    chat = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    health = f"GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    statuses: Counter[int] = Counter()
    health_s: list[float] = []
    until = time.monotonic() + seconds

    async def client() -> None:
        while time.monotonic() < until:
            statuses[await _exchange(host, port, chat)] += 1

    async def watch() -> None:
        while time.monotonic() < until:
            asked_s = time.monotonic()
            statuses[-(await _exchange(host, port, health))] += 1
            health_s.append(time.monotonic() - asked_s)
            await asyncio.sleep(HEALTH_EVERY_S)

    await asyncio.gather(watch(), *(client() for _ in range(clients)))
    results.send((dict(statuses), health_s))


def _clients(url: str, clients: int, seconds: float, results: Connection) -> None:
    asyncio.run(_crowd(url, clients, seconds, results))


async def _measure(clients: int, seconds: float) -> tuple[dict[int, int], list[float]]:
    sys.setswitchinterval(SWITCH_S)
    plan = crowd_plan()
    tokenizer = await asyncio.to_thread(load_tokenizer, plan.job.model.parsed_source)
    end = min(tokenizer.eos_ids)
    coordinator = new_coordinator(
        plan, embedded=True, build_engine=lambda welcome, _report: EndingEngine(welcome.num_layers, 64, end)
    )
    text = TextService(coordinator, tokenizer, model_name="random:tiny", context=context_of(plan))
    await coordinator.start()
    try:
        await coordinator.wait_ready(120)
        with bound_socket("127.0.0.1", 0) as listener:
            server = api_server(text)
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            ours, theirs = multiprocessing.Pipe()
            context = multiprocessing.get_context("spawn")
            process = context.Process(target=_clients, args=(url_of(listener), clients, seconds, theirs), daemon=True)
            process.start()
            found: tuple[dict[int, int], list[float]] = await asyncio.to_thread(ours.recv)
            process.join(10)
            server.should_exit = True
            await serving
            status = coordinator.snapshot()
        print(f"{status.finished} answers, {status.generated_tokens} tokens, {status.illegal_events} illegal events")
        return found
    finally:
        await coordinator.close()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=800)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    statuses, health_s = asyncio.run(_measure(options.clients, options.seconds))
    print("| nodes | clients | chats answered 200 | otherwise | /health otherwise | /health p50, ms | slowest, ms |")
    print("|---|---|---|---|---|---|---|")
    chats = {status: count for status, count in statuses.items() if status >= 0}
    wrong = {status: count for status, count in chats.items() if status != 200}
    unhealthy = sum(count for status, count in statuses.items() if status < 0 and status != -200)
    middle, slowest = np.median(health_s) * 1000, max(health_s) * 1000
    cells = (PIPELINES * len(STAGES), options.clients, chats.get(200, 0), wrong or 0, unhealthy)
    print(f"| {' | '.join(map(str, cells))} | {middle:.0f} | {slowest:.0f} |")


if __name__ == "__main__":
    main()
