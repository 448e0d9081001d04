"""What the journal of accepted requests costs: on the loop for a token, and in tokens/s of a job that serves.

``python -m benchmarks.journal_table`` tells a journal of tokens in bursts, as a coordinator does, and times what the
loop spends on that; then it streams over HTTP from a daemon with two workers, with and without a journal, in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.halves import halves_plan
from helix_df.runtime.api.client import http_client
from helix_df.runtime.coordinator.journal import Journal
from helix_df.runtime.jobs.directory import JobDirectory
from helix_df.runtime.jobs.lifecycle import start_daemon, stop_daemon, until_ready
from helix_df.runtime.kept_answers import AcceptedAnswer
from helix_df.runtime.requests import GenerationRequest, TokenEvent, TopLogprobs
from helix_df.runtime.sampling import SamplingParams

STREAMS = 32
BURST_S = 0.004
"""Between the tokens of all streams: 8,000 tokens/s."""


def loop_cost(logprobs: bool, seconds: float) -> tuple[float, float]:
    """Microseconds a token on the telling thread, and of CPU in all, the writing thread's included."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal", "plan")
        journal.start()
        for at in range(STREAMS):
            asked = GenerationRequest(f"r{at}", tuple(range(500)), 10_000, SamplingParams())
            journal.accept(AcceptedAnswer(f"a{at}", "{}", (asked,)))
        top = TopLogprobs(-1.5, tuple((at, -2.0 - at) for at in range(5))) if logprobs else None
        spent_s, told, end = 0.0, 0, time.perf_counter() + seconds
        cpu_s = time.process_time()
        while time.perf_counter() < end:
            events = [TokenEvent(token, None, top) for token in range(STREAMS)]
            begun = time.perf_counter()
            for at, event in enumerate(events):
                journal.token(f"r{at}", event)
            spent_s += time.perf_counter() - begun
            told += STREAMS
            time.sleep(BURST_S)
        journal.close()
        return 1e6 * spent_s / told, 1e6 * (time.process_time() - cpu_s) / told


@contextmanager
def served(folder: Path, journal: bool) -> Iterator[str]:
    """The URL of a daemon."""
    job = JobDirectory(folder / ("with" if journal else "without"))
    plan = halves_plan("random:tiny", context=512, kv_tokens=32768, journal=journal)
    process = start_daemon(job, plan, start_timeout_s=300)
    try:
        yield str(until_ready(job, process).url)
    finally:
        stop_daemon(job)


async def tokens_per_s(url: str, streams: int, tokens: int) -> float:
    """Of so many streams at once."""
    async with http_client(url) as http:
        model = (await http.get("/v1/models")).json()["data"][0]["id"]

        async def one(number: int) -> None:
            body = {"model": model, "prompt": [number + 1, 5, 9], "max_tokens": tokens, "stream": True}
            async with http.stream("POST", "/v1/completions", json=body | {"ignore_eos": True}) as response:
                async for _ in response.aiter_lines():
                    pass

        begun = time.perf_counter()
        await asyncio.gather(*(one(number) for number in range(streams)))
        return streams * tokens / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement on the loop")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for logprobs in (False, True):
        loop_us, cpu_us = loop_cost(logprobs, options.seconds)
        words = "with log-probabilities of 5" if logprobs else "plain"
        print(f"{words}: {loop_us:.2f} µs a token on the loop, {cpu_us:.1f} µs of CPU in all")
    with tempfile.TemporaryDirectory() as name, served(Path(name), True) as kept, served(Path(name), False) as unkept:
        rates: dict[bool, list[float]] = {True: [], False: []}
        for number in range(options.rounds + 1):
            for journal, url in ((True, kept), (False, unkept)):
                rate = asyncio.run(tokens_per_s(url, 16, 200))
                rates[journal] += [rate] if number else []  # the first compiles
        for journal, found in rates.items():
            words = "with" if journal else "without"
            print(f"{words} a journal: {statistics.median(found):.0f} tokens/s, {min(found):.0f} to {max(found):.0f}")
    print(f"load after: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
