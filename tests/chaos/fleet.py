"""A fleet of many workers that registers, serves, loses a part of itself at once, and heals.

    python -m tests.chaos.fleet [--workers 1000] [--streams 64] [--lose 100] [--json]

A real coordinator and API, and real workers that join from outside over encrypted sockets, many to a process, with
engines that compute nothing but whose answers depend on every layer and token (``tests.chaos.counting_engine``). Each
stream asks for one answer after another and holds it against what it has to be. Some of the processes are killed at
once while all streams run, and started again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

from helix_df.graph.compile import compile_problem
from helix_df.load import load_job
from helix_df.planning import make_plan
from helix_df.runtime.access import Access
from helix_df.runtime.api.client import fetch_status, http_client
from helix_df.runtime.jobs.directory import DaemonRecord, JobDirectory, job_directory
from helix_df.runtime.jobs.lifecycle import start_daemon, stop_daemon, until_serving
from helix_df.runtime.requests import JobStatus, NodeStatus
from tests.chaos.counting_engine import next_token

SITES = ("frankfurt", "virginia", "tokyo", "sydney")
GPUS = {"big": 0.2, "small": 0.8}
"""Shares of the nodes."""

JOB = """\
name: {name}
model: {{source: "random:tiny-16", context: 512}}
gpus:
  big:
    memory: 8GiB
    profile: {{tokens_per_s: [800, 400, 266, 200, 160, 133], kv_tokens: [60000, 60000, 60000, 60000, 60000, 60000]}}
  small:
    memory: 4GiB
    profile: {{tokens_per_s: [300, 150, 100], kv_tokens: [30000, 30000, 30000]}}
nodes:
{nodes}
links:
  default: {{bandwidth: 1Gbps, latency: 60ms}}
  regions:
{links}
coordinator: {{region: frankfurt}}
solver: {{time_limit: 3s}}
runtime: {{port: 0, max_batch: 16, encryption: always, lost_after: {lost_after}s}}
"""

MOST_OF_A_PROCESS = 50
"""Workers: more would rather wait for each other than for the coordinator."""

PROMPT = "the fleet has a number of ships, and this is the one of number "
TOKENS = 200
STEADY_S = 5.0
LEAVE_S = 60.0
"""So long workers have to end once the job does."""

PATIENCE_S = 600.0


def job_text(workers: int, name: str = "fleet") -> str:
    """A job of so many nodes in eight groups. All workers share a machine here, so that many are patient."""
    shares = [(f"{gpu}-{site}", gpu, site, share / len(SITES)) for gpu, share in GPUS.items() for site in SITES]
    ends = [round(workers * part) for part in itertools.accumulate((it[3] for it in shares), initial=0.0)]
    nodes = [
        f"  {group}: {{gpu: {gpu}, region: {site}, launcher: external, count: {stop - start}}}"
        for (group, gpu, site, _), (start, stop) in zip(shares, itertools.pairwise(ends), strict=True)
        if stop > start
    ]
    links = [f"    - {{between: [{site}, {site}], bandwidth: 10Gbps, latency: 0.5ms}}" for site in SITES]
    return JOB.format(name=name, nodes="\n".join(nodes), links="\n".join(links), lost_after=max(3, workers // 100))


@dataclass
class Stream:
    """One client: tokens' times (s, monotonic), answers that came, were lost or are others than they had to be."""

    number: int
    came_s: list[float] = field(default_factory=list)
    answers: int = 0
    lost: list[str] = field(default_factory=list)
    changed: int = 0

    def longest_s(self, since: float, until: float) -> float:
        """The longest wait for a token within a stretch of time."""
        times = [since, *(at for at in self.came_s if since < at < until), until]
        return max(later - earlier for earlier, later in itertools.pairwise(times))


@dataclass
class Streams:
    """All clients of a job."""

    access: Access
    model: str
    num_layers: int
    tokens: int
    all: list[Stream]
    over: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def begin(self) -> None:
        """Let every stream run, and wait until all have tokens."""
        self._tasks = [asyncio.create_task(self._client(one)) for one in self.all]
        await until(lambda: all(one.came_s for one in self.all))

    async def end(self) -> None:
        """Let answers that have begun come to their end."""
        self.over = True
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*self._tasks)

    async def _client(self, stream: Stream) -> None:
        async with http_client(self.access) as http:
            for turn in itertools.count():
                if self.over:
                    return
                prompt = list(f"{PROMPT}{stream.number}, turn {turn}: ".encode())
                try:
                    said = [token async for token in self._tokens(http, prompt, stream)]
                except (httpx.HTTPError, ValueError, KeyError) as error:
                    stream.lost.append(repr(error))
                    await asyncio.sleep(0.2)
                    continue
                stream.answers += 1
                stream.changed += said != self._expected(prompt)

    async def _tokens(self, http: httpx.AsyncClient, prompt: list[int], stream: Stream) -> Any:
        body = {"model": self.model, "prompt": prompt, "max_tokens": self.tokens, "ignore_eos": True, "temperature": 0}
        body |= {"stream": True, "return_token_ids": True}
        async with http.stream("POST", "/v1/completions", json=body) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    for token in json.loads(line[len("data: ") :])["choices"][0].get("token_ids", ()):
                        stream.came_s.append(time.monotonic())
                        yield token

    def _expected(self, prompt: list[int]) -> list[int]:
        tokens = list(prompt)
        while len(tokens) < len(prompt) + self.tokens:
            tokens.append(next_token(tokens, self.num_layers))
        return tokens[len(prompt) :]


@dataclass
class Fleet:
    """A job's daemon, and processes of its workers by their numbers; the first ``victims`` are to be lost."""

    job: JobDirectory
    record: DaemonRecord
    parts: list[list[str]]
    victims: int
    logs: Path
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, part: int) -> None:
        """Start the process of a part of the workers."""
        nodes = self.parts[part]
        words = self.record.join_commands[nodes[0]].split()
        join, key = (words[words.index(name) + 1] for name in ("--join", "--key-file"))
        command = [sys.executable, "-m", "tests.chaos.fleet_host", "--join", join, "--key-file", key, *nodes]
        with (self.logs / f"part{part}.log").open("ab") as log:
            self.processes[part] = subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self, parts: Iterable[int]) -> None:
        """End the processes of some parts without a last word."""
        processes = [self.processes.pop(part) for part in parts]
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()

    def status(self) -> JobStatus:
        """Of the job."""
        return fetch_status(self.record.access(), 60)

    def count(self, state: str, status: JobStatus) -> int:
        """Workers in a state."""
        return sum(node.state == state for node in status.nodes)

    @property
    def coordinator(self) -> int:
        """Its process."""
        record = self.job.record()
        assert record is not None
        assert record.coordinator is not None
        return record.coordinator


def divided(nodes: Sequence[NodeStatus], lose: int) -> tuple[list[list[str]], int]:
    """Workers by process, and how many of these, the first ones, are to be lost: each worker there has a twin, with the
    same layers, that isn't."""
    twins = Counter(node.layers for node in nodes)
    victims = []
    for node in nodes:
        if twins[node.layers] > 1 and len(victims) < lose:
            twins[node.layers] -= 1
            victims.append(node.name)
    others = [node.name for node in nodes if node.name not in set(victims)]
    most = min(lose, MOST_OF_A_PROCESS)
    lost, left = ([of[at : at + most] for at in range(0, len(of), most)] for of in (victims, others))
    return [*lost, *left], len(lost)


@contextlib.contextmanager
def fleet(workers: int, lose: int, folder: Path, name: str = "fleet") -> Iterator[tuple[Fleet, float]]:
    """A job whose workers are all to be started, and the seconds that it took to plan; all gone at the end."""
    path = folder / "fleet.yaml"
    path.write_text(job_text(workers, name))
    began = time.monotonic()
    job = load_job(path)
    plan = make_plan(job, problem=compile_problem(job))
    planned_s = time.monotonic() - began
    directory = job_directory(name)
    process = start_daemon(directory, plan)
    made: Fleet | None = None
    try:
        record = until_serving(directory, process)
        made = Fleet(directory, record, *divided(fetch_status(record.access(), 60).nodes, lose), folder)
        yield made, planned_s
    finally:
        stop_daemon(directory)
        process.wait()
        for worker in [] if made is None else made.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(60)
            worker.kill()
            worker.wait()


async def until(holds: Callable[[], object], seconds: float = PATIENCE_S) -> None:
    """Wait for something to come true."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError("it takes too long")
        await asyncio.sleep(0.05)


async def reaches(of: Fleet, holds: Callable[[JobStatus], bool]) -> float:
    """Wait for a status, and say when (s, monotonic) it was there."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        began = time.monotonic()
        status = await asyncio.to_thread(of.status)
        if holds(status):
            return time.monotonic()
        if time.monotonic() > deadline:
            raise TimeoutError(f"it takes too long: {status.state}")
        await asyncio.sleep(0.5 + 4 * (time.monotonic() - began))  # to look isn't to be the load


@dataclass(frozen=True, slots=True)
class Use:
    """What a process used so far or has: seconds of processor, MiB, file descriptors, threads."""

    cpu_s: float
    mib: float
    descriptors: int
    threads: int


def use_of(pid: int) -> Use:
    """Of a process of this machine."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    tick = os.sysconf("SC_CLK_TCK")
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return Use(
        (int(fields[11]) + int(fields[12])) / tick, int(status["VmRSS"].split()[0]) / 1024, descriptors, int(fields[17])
    )


async def share_of_a_core(pid: int, seconds: float) -> float:
    """That a process uses, over a few seconds."""
    before, began = use_of(pid).cpu_s, time.monotonic()
    await asyncio.sleep(seconds)
    return (use_of(pid).cpu_s - before) / (time.monotonic() - began)


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer of the API: the fastest of a few, in milliseconds, and its bytes."""

    ms: float
    size: int


def fetched(access: Access, path: str, times: int = 3) -> Fetched:
    """Ask for a path of the API."""
    took = []
    for _ in range(times):
        began = time.monotonic()
        response = httpx.get(f"{access.url}{path}", headers=access.headers, timeout=60, trust_env=False)
        took.append(time.monotonic() - began)
        response.raise_for_status()
    return Fetched(1000 * min(took), len(response.content))


def commanded(*words: str) -> Fetched:
    """Run a command of helix-df."""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "helix_df", *words], capture_output=True, check=True)
    return Fetched(1000 * (time.monotonic() - began), len(done.stdout))


@dataclass
class Found:
    """What a run shows, in seconds unless it says otherwise."""

    workers: int = 0
    streams: int = 0
    lose: int = 0
    planned_s: float = 0.0
    registered_s: float = 0.0
    idle_core: float = 0.0
    serving_core: float = 0.0
    coordinator: Use | None = None
    status: dict[str, Fetched] = field(default_factory=dict)
    tokens_per_s: float = 0.0
    longest_undisturbed_s: float = 0.0
    noticed_s: float = 0.0
    to_resume_p50_s: float = 0.0
    to_resume_most_s: float = 0.0
    healed_s: float = 0.0
    longest_while_healing_s: float = 0.0
    answers: int = 0
    lost: int = 0
    changed: int = 0
    why: str = ""
    left_s: float = 0.0


async def measure(
    workers: int,
    streams: int,
    lose: int,
    folder: Path,
    name: str = "fleet",
    steady_s: float = STEADY_S,
    tokens: int = TOKENS,
) -> Found:
    """All of it. So long everything goes on undisturbed before the blow, and once all is well again; answers have so
    many tokens."""
    found = Found(workers, streams, lose)
    with fleet(workers, lose, folder, name) as (of, found.planned_s):
        found.workers, found.lose = sum(map(len, of.parts)), sum(map(len, of.parts[: of.victims]))
        began = time.monotonic()
        for part in range(len(of.parts)):
            of.start(part)
        found.registered_s = await reaches(of, lambda status: status.state == "ready") - began
        found.idle_core = await share_of_a_core(of.coordinator, steady_s)
        found.status = await asyncio.to_thread(looked_at, of, name)
        await _served(found, of, streams, steady_s, tokens)
        found.coordinator = use_of(of.coordinator)
        began = time.monotonic()
        await asyncio.to_thread(stop_daemon, of.job)
        await until(lambda: all(process.poll() is not None for process in of.processes.values()), LEAVE_S)
        found.left_s = time.monotonic() - began
    return found


def looked_at(of: Fleet, name: str) -> dict[str, Fetched]:
    """What people and programs ask of a job, and what that takes."""
    access = of.record.access()
    paths = ("/helix/status", "/helix/overview", "/metrics", "/health")
    asked = {path: fetched(access, path) for path in paths}
    commands = (("status", name), ("status", name, "--json"), ("top", name, "--times", "1"))
    return asked | {f"helix-df {' '.join(words)}": commanded(*words) for words in commands}


async def _served(found: Found, of: Fleet, count: int, steady_s: float, tokens: int) -> None:
    status = of.status()
    streams = [Stream(number) for number in range(count)]
    clients = Streams(of.record.access(), status.model, status.num_layers, tokens, streams)
    await clients.begin()
    quiet = time.monotonic()
    found.serving_core = await share_of_a_core(of.coordinator, steady_s)
    blow = time.monotonic()
    came = sum(quiet < at < blow for one in clients.all for at in one.came_s)
    found.tokens_per_s = came / (blow - quiet)
    found.longest_undisturbed_s = max(one.longest_s(quiet, blow) for one in clients.all)
    victims = range(of.victims)
    of.kill(victims)
    gone = await reaches(of, lambda status: of.count("lost", status) >= found.lose)
    found.noticed_s = gone - blow
    await asyncio.sleep(steady_s)
    since = time.monotonic()
    waits = sorted(one.longest_s(blow, since) for one in clients.all)
    found.to_resume_p50_s, found.to_resume_most_s = waits[len(waits) // 2], waits[-1]
    back = time.monotonic()
    for part in victims:
        of.start(part)
    found.healed_s = await reaches(of, lambda status: status.state == "ready") - back
    await asyncio.sleep(steady_s)
    found.longest_while_healing_s = max(one.longest_s(back, time.monotonic()) for one in clients.all)
    await clients.end()
    found.answers = sum(one.answers for one in clients.all)
    found.lost = sum(len(one.lost) for one in clients.all)
    found.changed = sum(one.changed for one in clients.all)
    found.why = next((why for one in clients.all for why in one.lost), "")


def table(found: Found) -> str:
    """What was found, for people."""
    rows = [
        ("workers", f"{found.workers:,}"),
        ("planned in, s", f"{found.planned_s:.1f}"),
        ("all registered and ready after, s", f"{found.registered_s:.1f}"),
        ("coordinator's share of a core, idle", f"{100 * found.idle_core:.0f} %"),
        (f"the same with {found.streams} streams", f"{100 * found.serving_core:.0f} %"),
        ("tokens/s", f"{found.tokens_per_s:,.0f}"),
        ("longest wait for a token, undisturbed, s", f"{found.longest_undisturbed_s:.2f}"),
        (f"{found.lose} workers killed: all noticed after, s", f"{found.noticed_s:.1f}"),
        ("streams resumed after, p50 and most, s", f"{found.to_resume_p50_s:.2f}, {found.to_resume_most_s:.2f}"),
        ("workers back: all ready after, s", f"{found.healed_s:.1f}"),
        ("longest wait for a token meanwhile, s", f"{found.longest_while_healing_s:.2f}"),
        ("told to stop: all workers gone after, s", f"{found.left_s:.1f}"),
        ("answers, lost, changed", f"{found.answers:,}, {found.lost}, {found.changed}"),
        *((what, f"{one.ms:,.0f} ms, {one.size:,} bytes") for what, one in found.status.items()),
    ]
    if found.coordinator is not None:
        rows.append(
            (
                "coordinator: MiB, descriptors, threads",
                f"{found.coordinator.mib:,.0f}, {found.coordinator.descriptors:,}, {found.coordinator.threads}",
            )
        )
    return "\n".join(["| what | |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows)])


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--lose", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", type=Path, help="keep logs there")
    options = parser.parse_args(arguments)
    print(f"load of this machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        kept = options.folder or Path(folder)
        kept.mkdir(parents=True, exist_ok=True)
        found = asyncio.run(measure(options.workers, options.streams, options.lose, kept))
    print(json.dumps(asdict(found)) if options.json else table(found))
    if found.why:
        print(f"lost: {found.why}", file=sys.stderr)
    return int(found.lost > 0 or found.changed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
