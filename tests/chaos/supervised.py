"""A job as ``helix-df apply`` runs it, on hosts: supervisor and coordinator at home, workers that were started by hand.

Clients are at home, too, and speak HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from helix_df.layers import LayerRange
from helix_df.plan.plan import Plan
from helix_df.runtime.api.client import http_client
from helix_df.runtime.jobs.directory import DaemonRecord, JobDirectory
from helix_df.runtime.jobs.lifecycle import start_daemon, stop_daemon, until_ready, until_serving
from tests.chaos.hosts import Hosts
from tests.chaos.launcher import host_of_node
from tests.chaos.returning import Reply, Returning, body_of
from tests.chaos.scene import TOKENS, Seen, scene_plan

LIVES = 2
"""So often the coordinator is killed."""

BETWEEN_S = 4.0


@dataclass
class Supervised:
    """The folder of a job that serves, and what its clients see; each of ``expected`` is an answer, undisturbed."""

    job: JobDirectory
    record: DaemonRecord
    model: str
    expected: list[Reply] = field(default_factory=list)
    seen: Seen = field(default_factory=Seen)
    _over: bool = False

    async def rehearse(self, streams: int) -> None:
        """Learn what each stream says undisturbed, once workers have compiled."""
        for _ in range(2):
            async with http_client(str(self.record.url)) as http:
                runs = (Returning(http, body_of(number, self.model, TOKENS)).run() for number in range(streams))
                self.expected = await asyncio.gather(*runs)
        assert not any(reply.lost for reply in self.expected), self.expected

    async def load(self, streams: int) -> None:
        """Let every stream run, one answer after another, until ``_over``."""
        async with http_client(str(self.record.url)) as http:

            async def client(number: int) -> None:
                while not self._over:
                    reply = Returning(http, body_of(number, self.model, TOKENS))
                    self.seen.came_s.setdefault(number, [])
                    reply.reply.came_s = self.seen.came_s[number]
                    self.note(await reply.run(), number)

            await asyncio.gather(*(client(number) for number in range(streams)))

    def note(self, reply: Reply, number: int) -> None:
        """Count an answer."""
        if reply.lost:
            self.seen.lost.append(reply.lost)
        else:
            self.seen.answers += 1
            self.seen.changed += reply.said() != self.expected[number].said()

    async def kill_the_coordinator(self) -> None:
        """And wait until the next one serves all its workers."""
        before = self.job.record()
        assert before is not None
        assert before.coordinator is not None
        os.kill(before.coordinator, signal.SIGKILL)
        async with asyncio.timeout(120):
            while not self._is_another(before.coordinator):
                await asyncio.sleep(0.1)

    def _is_another(self, before: int) -> bool:
        now = self.job.record()
        return now is not None and now.coordinator not in (None, before) and now.state == "ready"


@asynccontextmanager
async def supervised(folder: Path, placement: dict[str, LayerRange], **runtime: object) -> AsyncIterator[Supervised]:
    """A ready job."""
    hosts = Hosts(list(placement))
    plan = _by_hand(scene_plan(hosts, placement, **runtime))
    job = JobDirectory(folder / plan.job.name)
    process = start_daemon(job, plan, start_timeout_s=240)
    workers: list[subprocess.Popen[bytes]] = []
    try:
        record = await asyncio.to_thread(until_serving, job, process)
        for node, command in record.join_commands.items():
            words = [sys.executable, "-m", "helix_df", *shlex.split(command)[1:]]
            with (folder / f"{node}.log").open("ab") as output:
                workers.append(subprocess.Popen(hosts.command(host_of_node(node), words), stdout=output, stderr=output))
        record = await asyncio.to_thread(until_ready, job, process)
        yield Supervised(job, record, plan.job.model.served_name)
    finally:
        await asyncio.to_thread(stop_daemon, job)
        process.wait()
        for worker in workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(10)
            worker.kill()
            worker.wait()


def _by_hand(plan: Plan) -> Plan:
    nodes = {name: node.model_copy(update={"launcher": "external"}) for name, node in plan.job.nodes.items()}
    return replace(plan, job=plan.job.model_copy(update={"nodes": nodes}))


async def kill_the_coordinator(
    folder: Path, placement: dict[str, LayerRange], streams: int, **runtime: object
) -> tuple[Seen, float]:
    """What clients see whose coordinator is killed under them, twice; and when it was first."""
    async with supervised(folder, placement, **runtime) as there:
        await there.rehearse(streams)
        load = asyncio.create_task(there.load(streams))
        async with asyncio.timeout(120):
            while sum(map(bool, there.seen.came_s.values())) < streams:
                await asyncio.sleep(0.02)
        at = time.monotonic()
        for _ in range(LIVES):
            await there.kill_the_coordinator()
            await asyncio.sleep(BETWEEN_S)
        there._over = True
        async with asyncio.timeout(240):
            await load
        return there.seen, at
