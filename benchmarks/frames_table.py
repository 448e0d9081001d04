"""Wrong frames, with the job's secret and without, against a job that serves: what comes of it.

    python -m benchmarks.frames_table [--frames 1000000] [--rate 6000] [--large 300]

A daemon with two workers of its own serves one stream after another over HTTP, and each answer must be the one it gave
before. Meanwhile the coordinator and both workers are sent frames: real ones with something wrong or sent again
(``property_tests.mutated_frames``), as many with the secret as without; then 100,000 small ones and some of 10 MB by
strangers, as fast as they are taken. ``--rate`` is frames a second, in all; 0 is as fast as can be.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import re
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import numpy as np
import zmq

from benchmarks.halves import halves_plan
from helix_df.plan.plan import Plan
from helix_df.runtime.api.client import fetch_status, http_client
from helix_df.runtime.coordinator.state import CoordinatorState
from helix_df.runtime.jobs.directory import JobDirectory
from helix_df.runtime.jobs.lifecycle import start_daemon, stop_daemon, until_ready
from helix_df.runtime.requests import GenerationRequest, TopLogprobs
from helix_df.runtime.sampling import SamplingParams
from helix_df.runtime.wire import framing
from helix_df.runtime.wire import messages as m
from helix_df.runtime.wire.pacing import Lane
from property_tests.mutated_frames import Mutator

SMALL_FLOOD = 100_000
LARGE_BYTES = 10_000_000
TOKENS = 120
QUIET_S = 15.0
STALL_S = 0.25


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def recorded(plan: Plan, addresses: dict[str, str], token: str) -> list[list[bytes]]:
    """The frames of a short life of the job, each kind of message among them."""
    state = CoordinatorState(plan, 512)
    said: list[m.Message] = []
    for node in addresses:
        hello, ready = m.Hello(node, addresses[node], 7), m.Ready(node, state.nodes_state.nodes[node].kv_tokens)
        for message in (hello, m.Loading(node, "loading", 0.5, "layers"), ready, m.Heartbeat(node)):
            said += [message, *_said(state.on_message(message, 0.0))]
    asked = GenerationRequest("recorded", tuple(range(1, 40)), 8, SamplingParams(logprobs=2))
    firsts = [one for one in _said(state.submit(asked, 0.0)) if isinstance(one, m.Forward)]
    said += firsts
    for first in firsts:
        hidden = np.zeros((len(first.tensor), plan.geometry.hidden_size), np.float32)
        said += [replace(first, tensor=hidden), replace(first, tensor=hidden, codec="int8")]
    key = firsts[0].request
    said += _said(state.on_message(m.Sampled(key, 39, 5, TopLogprobs(-0.5, ((5, -0.5), (1, -2.0)))), 0.0))
    said += [m.Sampled(key, 39, 5, None), m.Rejected(key, "first", "kv_full"), m.Release(key, 16), m.Release(key)]
    said += [m.Failed("first", "broken"), m.Probe(1, (addresses["first"],), bytes(64)), m.Stop()]
    return [[bytes(frame) for frame in framing.encode(message, token)] for message in said]


def _said(actions: object) -> list[m.Message]:
    return [action.message for action in actions if isinstance(action, m.Send)]  # type: ignore[attr-defined]


def send_frames(
    targets: list[str], frames: list[list[bytes]], token: str, secret: bool, count: int, rate: float
) -> None:
    """Runs in a process of its own: mutated frames to each target in turn."""
    os.nice(5)
    mutator = Mutator(frames, token, seed=secret)
    peers = [_push(target) for target in targets]
    pace, start = Lane(rate or 1e12, 0.0), time.monotonic()
    for number in range(count):
        peers[number % len(peers)].send_multipart(mutator.with_secret() if secret else mutator.without_secret())
        if rate and number % 64 == 0:
            time.sleep(max(0.0, start + number / pace.bytes_per_s - time.monotonic()))
    for peer in peers:
        peer.close(linger=30_000)


def flood(targets: list[str], frame: bytes, count: int) -> None:
    """Runs in a process of its own: the same frame, as fast as it is taken; a connection that is ended begins again."""
    os.nice(5)
    peers = [_push(target) for target in targets]
    for number in range(count):
        try:
            peers[number % len(peers)].send(frame)
        except zmq.Again:
            continue
    for peer in peers:
        peer.close(linger=5_000)


def _push(target: str) -> zmq.Socket[bytes]:
    peer: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUSH)
    peer.setsockopt(zmq.SNDHWM, 100)
    peer.setsockopt(zmq.SNDTIMEO, 2000)
    peer.connect(target)
    return peer


@dataclass
class Seen:
    """What a client saw: gaps between tokens (s), answers that weren't the right ones, and statuses."""

    expected: list[int] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    answers: int = 0
    wrong: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    async def ask(self, client: httpx.AsyncClient, model: str) -> None:
        """One stream."""
        body = {"model": model, "prompt": list(range(1, 30)), "max_tokens": TOKENS, "temperature": 0, "stream": True}
        tokens: list[int] = []
        last = start = time.perf_counter()
        body |= {"ignore_eos": True, "return_token_ids": True}
        async with client.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code != 200:
                self.errors[str(response.status_code)] += 1
                return
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                document = json.loads(line[6:])
                if "error" in document:
                    self.errors[document["error"].get("code") or "error"] += 1
                    return
                now = time.perf_counter()
                (self.gaps_s if tokens else self.first_s).append(now - (last if tokens else start))
                last = now
                tokens += document["choices"][0].get("token_ids", ())
        self.answers += 1
        self.expected = self.expected or tokens
        self.wrong += tokens != self.expected


async def mix(url: str, model: str) -> None:
    """Requests of many lengths side by side, so that workers have compiled what rides together before all else."""
    async with http_client(url) as client:
        for turn in range(40):
            bodies = (
                {"model": model, "prompt": [turn % 7 + 1] * (1 + (37 * turn + 11 * at) % 90), "max_tokens": 30 + turn}
                for at in range(4)
            )
            await asyncio.gather(*(client.post("/v1/completions", json=body) for body in bodies))


async def watch(seen: Seen, url: str, model: str, until: object) -> None:
    """One stream after another, until the processes are over."""
    async with http_client(url) as client:
        while True:
            await seen.ask(client, model)
            if not any(process.is_alive() for process in until):  # type: ignore[attr-defined]
                return


async def watch_for(seen: Seen, url: str, model: str, seconds: float) -> None:
    """One stream after another for a while."""
    deadline = time.monotonic() + seconds
    async with http_client(url) as client:
        while time.monotonic() < deadline:
            await seen.ask(client, model)


def members(session: int) -> dict[int, str]:
    """The processes of a daemon and its workers, by what they are."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            owner = (entry / "stat").read_text().rpartition(")")[2].split()[3]
            words = (entry / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if int(owner) == session:
            found[int(entry.name)] = words[words.index("--node") + 1] if "--node" in words else "coordinator"
    return found


def memory(processes: dict[int, str]) -> dict[str, int]:
    """Resident bytes of each."""
    pages = {name: int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid, name in processes.items()}
    return {name: count * os.sysconf("SC_PAGE_SIZE") for name, count in pages.items()}


def log_bytes(job: JobDirectory) -> int:
    """Of all logs; those of events are bounded apart."""
    return sum(file.stat().st_size for file in job.log_dir.glob("*.log*"))


def refused(job: JobDirectory) -> Counter[str]:
    """By fault, as the logs of coordinator and workers tell."""
    found = Counter[str]()
    for file in job.log_dir.glob("*.log*"):
        for line in file.read_text(errors="replace").splitlines():
            told = line.partition("refused frames: ")[2].partition(";")[0]
            for count, fault in re.findall(r"(\d[\d,]*) (\w+)", told):
                found[fault] += int(count.replace(",", ""))
    return found


@contextmanager
def daemon(plan: Plan, folder: Path) -> Iterator[tuple[JobDirectory, str, str, int]]:
    """A daemon that serves: its folder, its URL, its secret and its session."""
    job = JobDirectory(folder / "halves")
    process = start_daemon(job, plan, start_timeout_s=300)
    try:
        record = until_ready(job, process)
        while any(node.cold_shapes for node in fetch_status(str(record.url)).nodes):
            time.sleep(1)
        yield job, str(record.url), str(record.token), process.pid
    finally:
        stop_daemon(job)


def row(name: str, frames: int, seen: Seen, seconds: float) -> None:
    """One line of the table."""
    gaps = np.array([*seen.gaps_s, 0.0])
    print(
        f"| {name} | {frames:,} | {seconds:.0f} | {seen.answers} | {seen.wrong} | {dict(seen.errors) or 0} "
        f"| {1e3 * float(np.percentile(gaps, 50)):.1f} | {1e3 * float(np.percentile(gaps, 99)):.0f} "
        f"| {1e3 * float(gaps.max()):.0f} | {int((gaps > STALL_S).sum())} | {1e3 * max(seen.first_s, default=0):.0f} |",
        flush=True,
    )


def campaign(count: int, rate: float, large: int) -> None:
    port = free_port()
    plan = halves_plan("random:tiny", context=512, kv_tokens=4096, coordinator=f"127.0.0.1:{port}")
    model = plan.job.model.served_name
    with tempfile.TemporaryDirectory() as folder, daemon(plan, Path(folder)) as (job, url, token, session):
        addresses = {node.name: str(node.address) for node in fetch_status(url).nodes}
        targets = [f"tcp://127.0.0.1:{port}", *addresses.values()]
        frames = recorded(plan, addresses, token)
        spawn = multiprocessing.get_context("spawn")
        expected: list[int] = []

        def run(name: str, sent: int, *jobs: tuple[object, ...]) -> None:
            seen, start = Seen(expected), time.monotonic()
            processes = [spawn.Process(target=one[0], args=one[1:], daemon=True) for one in jobs]  # type: ignore[arg-type]
            for process in processes:
                process.start()
            asyncio.run(watch(seen, url, model, processes) if jobs else watch_for(seen, url, model, QUIET_S))
            expected[:] = expected or seen.expected
            row(name, sent, seen, time.monotonic() - start)

        asyncio.run(mix(url, model))
        began, alive, logged = memory(members(session)), members(session), log_bytes(job)
        print(f"load of this machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
        print(
            "| what | frames | s | answers | wrong | errors | gap p50, ms | p99 | most | over 250 ms | longest TTFT |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|---|")
        run("nothing", 0)
        before = memory(members(session))
        compiled = {node.name: node.compiled_programs for node in fetch_status(url).nodes}
        run(
            "mutated, with and without the secret",
            2 * count,
            (send_frames, targets, frames, token, True, count, rate / 2),
            (send_frames, targets, frames, token, False, count, rate / 2),
        )
        run("small, by a stranger", SMALL_FLOOD, (flood, targets, b"x" * 40, SMALL_FLOOD))
        run("10 MB, by a stranger", large, (flood, targets, b"x" * LARGE_BYTES, large))
        run("nothing", 0)
        after = memory(members(session))
        status = fetch_status(url)
        print(f"\nprocesses that ended: {sorted(set(alive.values()) - set(members(session).values()))}; ", end="")
        print(f"the same ones live: {alive.keys() == members(session).keys()}; the job is {status.state}, ", end="")
        print(f"{status.failed} requests failed")
        for name in after:
            print(f"memory of {name}: {began[name] / 1e6:.0f}, {before[name] / 1e6:.0f}, {after[name] / 1e6:.0f} MB")
        programs = {node.name: node.compiled_programs for node in status.nodes}
        print(f"programs compiled by the workers: {compiled}, then {programs}")
        print(f"logs: {logged / 1e3:.0f} kB, then {log_bytes(job) / 1e3:.0f} kB")
        print(f"refused, by fault: {dict(refused(job).most_common())}")
        counts = {node.name: node.illegal_events for node in status.nodes} | {"coordinator": status.illegal_events}
        print(f"events that are illegal where they came: {counts}")
        print(f"load of this machine after: {os.getloadavg()[0]:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--rate", type=float, default=6000)
    parser.add_argument("--large", type=int, default=300)
    options = parser.parse_args()
    campaign(options.frames, options.rate, options.large)


if __name__ == "__main__":
    main()
