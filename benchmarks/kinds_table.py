"""All kinds of requests at once, beside plain ones: time between tokens, answers that failed, memory and KV cache left.

    XLA_FLAGS=--xla_cpu_multi_thread_eigen=false python -m benchmarks.kinds_table [--minutes 10] [--clients 64]

SmolLM2 with its weights as stored over two workers, under a real daemon, over HTTP. Each client asks for one request
after another in an order of its own: in turns plain streamed completions, and requests of all kinds. The plain ones
have prompts and answers of as many tokens as each kind has, so that both are the same load. What is timed are the gaps
between events of streams.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.halves import SMOLLM2, halves_plan
from helix_df.plan.plan import Plan
from helix_df.runtime.api.client import fetch_status
from helix_df.runtime.jobs.directory import DaemonRecord, JobDirectory
from helix_df.runtime.jobs.lifecycle import start_daemon, stop_daemon, until_ready

PLAIN_SHARE = 0.25
"""Of the time, for plain requests alone."""

ROUNDS = 6
"""Turns of plain requests and of all kinds."""

TOKENS = 48
ASKED = [{"role": "user", "content": "Tell me about the rivers of France, and what was built on their banks."}]
WEATHER = {
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
PLACE = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "people": {"type": "integer", "maximum": 999}},
    "required": ["name", "people"],
    "additionalProperties": False,
}
Json = dict[str, Any]
Kinds = dict[str, tuple[str, Json]]
_TEXT: Json = {"prompt": "The rivers of France are", "max_tokens": TOKENS}
_CHAT: Json = {"messages": ASKED, "max_tokens": TOKENS}
_TOOL: Json = {"type": "function", "function": WEATHER}

KINDS: Kinds = {
    "completion, streamed": ("/v1/completions", {**_TEXT, "stream": True, "ignore_eos": True}),
    "completion": ("/v1/completions", _TEXT),
    "two of three, sampled": ("/v1/completions", {**_TEXT, "n": 2, "best_of": 3, "max_tokens": 16}),
    "log-probabilities, streamed": ("/v1/completions", {**_TEXT, "stream": True, "logprobs": 5}),
    "prompt's log-probabilities": ("/v1/completions", {**_TEXT, "max_tokens": 0, "echo": True, "logprobs": 1}),
    "chat, streamed": ("/v1/chat/completions", {**_CHAT, "stream": True}),
    "penalties, streamed": (
        "/v1/chat/completions",
        {**_CHAT, "stream": True, "presence_penalty": 0.5, "repetition_penalty": 1.1, "min_p": 0.05},
    ),
    "a call, streamed": (
        "/v1/chat/completions",
        {**_CHAT, "stream": True, "tools": [_TOOL], "tool_choice": "required", "max_tokens": 96},
    ),
    "a schema": (
        "/v1/chat/completions",
        {**_CHAT, "response_format": {"type": "json_schema", "json_schema": {"name": "place", "schema": PLACE}}},
    ),
    "a regular expression, streamed": (
        "/v1/completions",
        {**_TEXT, "stream": True, "structured_outputs": {"regex": "([a-z]{2,9} ){4,8}"}},
    ),
    "messages, streamed": ("/v1/messages", {**_CHAT, "stream": True}),
    "responses, streamed": (
        "/v1/responses",
        {"input": "Rivers of France?", "max_output_tokens": TOKENS, "stream": True},
    ),
    "embeddings": ("/v1/embeddings", {"input": ["rivers", "the banks of the Loire"]}),
    "left early": ("/v1/completions", {**_TEXT, "stream": True, "max_tokens": 200}),
}
LEFT_EARLY = "left early"


@dataclass
class Part:
    """What a part of the run saw: gaps between events of streams (s), and answers by kind and status."""

    gaps_s: list[float] = field(default_factory=list)
    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, other: Part) -> None:
        """What another part saw, too."""
        self.gaps_s += other.gaps_s
        self.statuses += other.statuses

    def percentile(self, share: float) -> float:
        return 1e3 * sorted(self.gaps_s)[int(share * (len(self.gaps_s) - 1))]


async def ask(http: httpx.AsyncClient, kinds: Kinds, kind: str, number: int, part: Part) -> None:
    """One request, heard to its end."""
    path, body = kinds[kind]
    asked = {"model": "smollm2", "seed": number, **body}
    if path in ("/v1/messages", "/v1/responses", "/v1/embeddings"):
        del asked["seed"]
    if not body.get("stream"):
        response = await http.post(path, json=asked)
        part.statuses[kind, str(response.status_code)] += 1
        return
    async with http.stream("POST", path, json=asked) as response:
        last, heard = None, 0
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            now, heard = time.perf_counter(), heard + 1
            if last is not None:
                part.gaps_s.append(now - last)
            last = now
            if json.loads(line.removeprefix("data: ")).get("error"):
                part.statuses[kind, "broken off"] += 1
            if kind == LEFT_EARLY and heard == 5:
                break
    part.statuses[kind, str(response.status_code)] += 1


async def load(url: str, clients: int, seconds: float, kinds: Kinds) -> Part:
    """So many clients for so long, each in an order of its own."""
    part, until_s = Part(), time.monotonic() + seconds

    async def client(number: int) -> None:
        order = random.Random(number)
        while time.monotonic() < until_s:
            await ask(http, kinds, order.choice(list(kinds)), order.randrange(2**31), part)

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as http:
        await asyncio.gather(*(client(number) for number in range(clients)))
    return part


def plain_of(url: str) -> Kinds:
    """Streamed completions with prompts and answers as long as those of each kind, several where it draws several."""
    found: Kinds = {}
    for kind, (path, body) in KINDS.items():
        unstreamed = {"model": "smollm2", **{key: value for key, value in body.items() if key != "stream"}}
        response = httpx.post(url + path, json=unstreamed, timeout=300).raise_for_status()
        usage = response.json()["usage"]
        prompt = usage.get("prompt_tokens", usage.get("input_tokens"))
        answer = usage.get("completion_tokens", usage.get("output_tokens", 0))
        answer = 5 if kind == LEFT_EARLY else answer
        drawn = body.get("best_of", 1)
        asked = {"prompt": [504] * prompt, "max_tokens": max(1, answer // drawn), "ignore_eos": True, "stream": True}
        found |= {f"{kind}, plain {number}": ("/v1/completions", asked) for number in range(drawn)}
    return found


def plan() -> Plan:
    """SmolLM2, packed, in halves."""
    found = halves_plan(SMOLLM2, context=512, kv_tokens=32_000, max_batch=16, port=0, max_queue=1024)
    model = found.job.model.model_copy(update={"weights": "stored", "name": "smollm2"})
    job = found.job.model_copy(update={"model": model})
    return Plan(**{**{name: getattr(found, name) for name in found.__dataclass_fields__}, "job": job})


@contextmanager
def served() -> Iterator[DaemonRecord]:
    """The job under a daemon."""
    with tempfile.TemporaryDirectory() as folder:
        directory = JobDirectory(Path(folder) / "kinds")
        process = start_daemon(directory, plan(), start_timeout_s=300)
        try:
            yield until_ready(directory, process)
        finally:
            stop_daemon(directory)


def memory_mb(url: str) -> dict[str, float]:
    """Of the workers."""
    return {node.name: node.memory_bytes / 1e6 for node in fetch_status(url).nodes}


def held(url: str) -> int:
    """Tokens of KV cache that requests hold, once nobody asks any more."""
    deadline = time.monotonic() + 10
    while sum(node.running for node in fetch_status(url).nodes) and time.monotonic() < deadline:
        time.sleep(0.1)
    return sum(node.kv_used_tokens for node in fetch_status(url).nodes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=64)
    given = parser.parse_args()
    seconds = 60 * given.minutes
    with served() as record:
        url = str(record.url)
        asyncio.run(load(url, given.clients, 20.0, KINDS))  # they compile
        alike = plain_of(url)
        asyncio.run(load(url, given.clients, 10.0, alike))
        before, marks = memory_mb(url), []
        plain, mixed = Part(), Part()
        for _ in range(ROUNDS):
            plain.add(asyncio.run(load(url, given.clients, PLAIN_SHARE * seconds / ROUNDS, alike)))
            mixed.add(asyncio.run(load(url, given.clients, (1 - PLAIN_SHARE) * seconds / ROUNDS, KINDS)))
            marks.append(memory_mb(url))
        left = held(url)
    print("| requests | answers | gaps | p50, ms | p95, ms | p99, ms |\n|---|---|---|---|---|---|")
    for name, part in (("plain", plain), ("of all kinds", mixed)):
        figures = " | ".join(f"{part.percentile(share):.1f}" for share in (0.5, 0.95, 0.99))
        print(f"| {name} | {sum(part.statuses.values()):,} | {len(part.gaps_s):,} | {figures} |")
    print(f"\np95 of all kinds is {mixed.percentile(0.95) / plain.percentile(0.95):.2f} of the plain one")
    by_kind: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    for (kind, status), number in mixed.statuses.items():
        by_kind[kind][status] += number
    for kind, statuses in by_kind.items():
        print(f"  {kind}: {json.dumps(statuses)}")
    for name, begun in before.items():
        rounds = ", ".join(f"{mark[name]:.0f}" for mark in marks)
        print(f"memory of {name}: {begun:.0f} MB once warm, then {rounds} after each round")
    print(f"KV cache held once all is over: {left} tokens; median gap alone {statistics.median(plain.gaps_s):.4f} s")


if __name__ == "__main__":
    main()
