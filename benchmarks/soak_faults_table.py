"""Hours in minutes: a job at most of its capacity, a worker killed every minute and the coordinator every five.

    python -m benchmarks.soak_faults_table [--minutes 30] [--undisturbed 5] [--share 0.8] [--clients 16]

Six workers on this machine hold each layer of the tiny model twice. Its capacity is what clients get who ask again as
soon as they are answered; then requests come at a share of that, first undisturbed, then with workers and coordinators
killed. Clients speak HTTP, come back for the rest of their answers, and hold each against what it was before.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np

from benchmarks.frames_table import daemon
from helix_df.runtime.api.client import http_client
from helix_df.runtime.jobs.directory import JobDirectory
from helix_df.runtime.jobs.processes import command_line
from tests.chaos.returning import Reply, Returning, body_of
from tests.chaos.scene import REPLICATED
from tests.runtime.tiny import tiny_plan

BODIES = 24
WORKER_EVERY_S = 60.0
COORDINATOR_EVERY_S = 300.0
LOOK_S = 10.0
SETTLED_S = 60.0
"""Of a process's life, in which it loads and compiles, and which doesn't count for how its memory grows."""


@dataclass
class Phase:
    """What came of requests, and their times to a first token (s)."""

    first_s: list[float] = field(default_factory=list)
    answers: int = 0
    changed: int = 0
    cuts: int = 0
    lost: Counter[str] = field(default_factory=Counter)

    def note(self, reply: Reply, asked_s: float, expected: Reply | None) -> None:
        """Count one."""
        self.cuts += reply.cuts
        if reply.lost:
            self.lost[reply.lost[:80]] += 1
            return
        self.answers += 1
        self.first_s.append(reply.came_s[0] - asked_s)
        self.changed += expected is not None and reply.said() != expected.said()


class Load:
    """Requests to one job."""

    def __init__(self, http: httpx.AsyncClient, model: str, tokens: int) -> None:
        self._http = http
        self._model = model
        self._tokens = tokens
        self._number = 0
        self.expected: list[Reply] = []

    async def learn(self) -> None:
        """What each request is answered, undisturbed."""
        bodies = [body_of(number, self._model, self._tokens) for number in range(BODIES)]
        for _ in range(2):
            self.expected = await asyncio.gather(*(Returning(self._http, body).run() for body in bodies))
        assert not any(reply.lost for reply in self.expected), self.expected

    async def _one(self, phase: Phase) -> None:
        number, self._number = self._number % BODIES, self._number + 1
        asked_s = time.monotonic()
        reply = await Returning(self._http, body_of(number, self._model, self._tokens)).run()
        phase.note(reply, asked_s, self.expected[number])

    async def capacity(self, clients: int, seconds: float) -> float:
        """Answers a second for so many who ask again at once."""
        phase, began_s = Phase(), time.monotonic()

        async def client() -> None:
            while time.monotonic() - began_s < seconds:
                await self._one(phase)

        await asyncio.gather(*(client() for _ in range(clients)))
        return phase.answers / (time.monotonic() - began_s)

    async def steady(self, rate: float, seconds: float) -> Phase:
        """So many requests a second, whatever becomes of them."""
        phase, began_s = Phase(), time.monotonic()
        asked: list[asyncio.Task[None]] = []
        while (now := time.monotonic() - began_s) < seconds:
            while len(asked) < now * rate:
                asked.append(asyncio.create_task(self._one(phase)))
            await asyncio.sleep(0.01)
        await asyncio.gather(*asked)
        return phase


def processes(session: int) -> dict[int, str]:
    """Those of a job by what they are."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            owner = int((entry / "stat").read_text().rpartition(")")[2].split()[3])
        except OSError:
            continue
        if owner == session:
            words = command_line(int(entry.name))
            role = "coordinator" if "--supervisor" in words else "supervisor"
            found[int(entry.name)] = words[words.index("--node") + 1] if "--node" in words else role
    return found


@dataclass
class Memory:
    """Resident MB of each process over its life: when (s), how much."""

    seen: dict[tuple[str, int], list[tuple[float, float]]] = field(default_factory=dict)

    async def watch(self, session: int) -> None:
        """Look, until cancelled."""
        while True:
            for pid, role in processes(session).items():
                try:
                    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                except (OSError, IndexError):
                    continue  # it is gone by now
                megabytes = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
                self.seen.setdefault((role, pid), []).append((time.monotonic(), megabytes))
            await asyncio.sleep(LOOK_S)

    def report(self) -> None:
        """A line a role."""
        print("\n| process | lives | MB at first | at last | most | growth once settled, MB/min: median, most |")
        print("|---|---|---|---|---|---|")
        for role in dict.fromkeys(role for role, _ in self.seen):
            lives = [looks for (of, _), looks in self.seen.items() if of == role]
            grown = [slope for looks in lives if (slope := _slope(looks)) is not None]
            words = f"{np.median(grown):+.2f}, {max(grown):+.2f}" if grown else "no life that long"
            most = max(size for looks in lives for _, size in looks)
            long = [looks for looks in lives if _slope(looks) is not None] or lives
            print(f"| {role} | {len(lives)} | {long[0][0][1]:.0f} | {long[-1][-1][1]:.0f} | {most:.0f} | {words} |")


def _slope(looks: list[tuple[float, float]]) -> float | None:
    """MB a minute, by least squares; ``None`` for a life that was too short to tell."""
    settled = [(at / 60, size) for at, size in looks if at - looks[0][0] >= SETTLED_S]
    if len(settled) < 5:
        return None
    at, size = np.array(settled).T
    return float(np.polyfit(at - at[0], size, 1)[0])


async def kill(job: JobDirectory, session: int) -> None:
    """Workers in turn, and coordinators, until cancelled."""
    began_s, workers, coordinators = time.monotonic(), 0, 0
    while True:
        await asyncio.sleep(1)
        now = time.monotonic() - began_s
        if now >= (workers + 1) * WORKER_EVERY_S:
            node = list(REPLICATED)[workers % len(REPLICATED)]
            workers += 1
            _end(next((pid for pid, role in processes(session).items() if role == node), None))
        if now >= (coordinators + 1) * COORDINATOR_EVERY_S:
            coordinators += 1
            record = job.record()
            _end(None if record is None else record.coordinator)


def _end(pid: int | None) -> None:
    if pid is not None:
        os.kill(pid, signal.SIGKILL)


def line(name: str, phase: Phase, minutes: float) -> None:
    """One of the table."""
    first = 1e3 * np.quantile(phase.first_s or [0.0], [0.5, 0.99, 1.0])
    print(
        f"| {name} | {minutes:g} | {phase.answers:,} | {phase.lost.total()} | {phase.changed} | {phase.cuts} "
        f"| {first[0]:.0f}, {first[1]:.0f}, {first[2]:.0f} |",
        flush=True,
    )
    for why, times in phase.lost.most_common(3):
        print(f"  lost {times} times: {why}", flush=True)


async def soak(options: argparse.Namespace, job: JobDirectory, url: str, model: str, session: int) -> None:
    """Learn, load, kill, report."""
    memory = Memory()
    async with http_client(url) as http:
        load = Load(http, model, options.max_tokens)
        await load.learn()
        await load.capacity(options.clients, 10)
        full = await load.capacity(options.clients, options.seconds)
        rate = options.share * full
        print(f"capacity {full:.1f} answers/s of {options.max_tokens} tokens; asked {rate:.1f} a second\n", flush=True)
        print("| what | minutes | answers | lost | changed | came back | TTFT p50, p99, most, ms |")
        print("|---|---|---|---|---|---|---|")
        watch = asyncio.create_task(memory.watch(session))
        line("nothing", await load.steady(rate, 60 * options.undisturbed), options.undisturbed)
        killer = asyncio.create_task(kill(job, session))
        line("kills", await load.steady(rate, 60 * options.minutes), options.minutes)
        assert not killer.done(), killer.exception()
        killer.cancel()
        watch.cancel()
    memory.report()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--undisturbed", type=float, default=5)
    parser.add_argument("--share", type=float, default=0.8)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=30, help="in which the capacity is measured")
    parser.add_argument("--max-tokens", type=int, default=64)
    options = parser.parse_args()
    runtime = {"max_batch": 32, "max_prefill_tokens": 64, "port": 0}
    plan = tiny_plan(REPLICATED, kv_tokens=32768, runtime=runtime)
    print(f"load of this machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    with tempfile.TemporaryDirectory() as folder, daemon(plan, Path(folder)) as (job, url, _, session):
        asyncio.run(soak(options, job, url, plan.job.model.served_name, session))
    print(f"load of this machine after: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
