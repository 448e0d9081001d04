"""What one coordinator can pass on: its processor time a token, and how many tokens/s a core of that is.

    python -m benchmarks.coordinator_limit_table [--streams 64] [--profile]

Two worker processes that compute nothing, as in ``overhead_table``; clients in a process of their own. The first row
hands tokens to a caller in the coordinator's process, the second streams them to as many HTTP clients, a token an
event. Processor time is that of all threads of the coordinator's process.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import multiprocessing
import pstats
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.overhead_table import idle_job
from benchmarks.serving import answer_all, prompts
from helix_df.runtime.api.generation import TextService
from helix_df.runtime.coordinator.shell import Coordinator
from helix_df.runtime.jobs.daemon import api_server, bound_socket
from tests.api.fakes import byte_tokenizer

ANSWER = 128
ROUNDS = 5


async def _stream(port: int, number: int) -> int:
    """Tokens that come to one client."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    asked = {"model": "halves", "prompt": [3, 4, 5, number], "max_tokens": ANSWER, "stream": True, "ignore_eos": True}
    body = json.dumps(asked).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    writer.write(f"{head}\r\nConnection: close\r\n\r\n".encode() + body)
    answer = await reader.read(-1)
    writer.close()
    assert b"200" in answer.partition(b"\r\n")[0], answer[:300]
    return answer.count(b"\ndata: {")


def _clients(port: int, streams: int, asked: Any, told: Any) -> None:
    async def all_of_them() -> int:
        return sum(await asyncio.gather(*(_stream(port, number) for number in range(streams))))

    while asked.get():
        told.put(asyncio.run(all_of_them()))


async def _row(words: str, work: Callable[[], Awaitable[int]], profile: bool) -> None:
    await work()
    profiler = cProfile.Profile()
    rates, spent = [], []
    for _ in range(ROUNDS):
        wall, processor = time.perf_counter(), time.process_time()
        if profile:
            profiler.enable()
        tokens = await work()
        profiler.disable()
        spent.append((time.process_time() - processor) / tokens)
        rates.append(tokens / (time.perf_counter() - wall))
    least = min(spent)
    print(f"| {words} | {1e6 * least:.0f} | {1 / least:,.0f} | {statistics.median(rates):,.0f} |", flush=True)
    if profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(30)


async def _rows(coordinator: Coordinator, streams: int, profile: bool) -> None:
    async def tokens() -> int:
        answers = await answer_all(coordinator, prompts(streams, 4, 300), ANSWER)
        return sum(len(one.times_s) for one in answers)

    await _row("to a caller", tokens, profile)
    text = TextService(coordinator, byte_tokenizer(), model_name="halves", context=512)
    spawn = multiprocessing.get_context("spawn")
    asked, told = spawn.Queue(), spawn.Queue()
    with bound_socket("127.0.0.1", 0) as listener:
        server = api_server(text)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        port = listener.getsockname()[1]
        clients = spawn.Process(target=_clients, args=(port, streams, asked, told), daemon=True)
        clients.start()

        async def events() -> int:
            asked.put(True)
            return await asyncio.to_thread(told.get)

        await _row(f"to {streams} streams", events, profile)
        asked.put(False)
        server.should_exit = True
        await serving
        clients.join(10)


async def _measure(streams: int, profile: bool) -> None:
    async with idle_job() as coordinator:
        print("| tokens go | processor time a token, µs | tokens/s of a core | tokens/s here |")
        print("|---|---|---|---|")
        await _rows(coordinator, streams, profile)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    asyncio.run(_measure(given.streams, given.profile))


if __name__ == "__main__":
    main()
