"""A job on hosts under a steady load of streams, each of which is timed and held against what it said undisturbed."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from helix_df.errors import HelixError
from helix_df.layers import LayerRange
from helix_df.plan.plan import Plan
from helix_df.runtime.coordinator.shell import Coordinator
from helix_df.runtime.jobs.job_keys import new_keys
from helix_df.runtime.requests import GenerationRequest, TokenEvent
from helix_df.runtime.wire.transport import endpoint_keys
from tests.chaos.faults import faulty
from tests.chaos.hosts import HOME, Hosts
from tests.chaos.launcher import HostLauncher
from tests.runtime.tiny import answer, tiny_plan, tiny_request

STREAMS = 32
TOKENS = 120
REPLICATED = {
    "a1": LayerRange(0, 1),
    "a2": LayerRange(0, 1),
    "b1": LayerRange(1, 3),
    "b2": LayerRange(1, 3),
    "c1": LayerRange(3, 4),
    "c2": LayerRange(3, 4),
}
"""Six workers, each layer on two of them."""


@dataclass
class Seen:
    """What clients saw: answers that were lost (with why) or changed, and when tokens came of each stream (s)."""

    answers: int = 0
    lost: list[str] = field(default_factory=list)
    changed: int = 0
    came_s: dict[int, list[float]] = field(default_factory=dict)

    def compare(self, answers: Sequence[list[TokenEvent] | None], expected: Sequence[list[TokenEvent]]) -> None:
        """Count answers, and those that are others than expected; ``None`` for those that were lost."""
        whole = [pair for pair in zip(answers, expected, strict=True) if pair[0] is not None]
        self.answers += len(whole)
        self.changed += sum(said != meant for said, meant in whole)

    def resumed_s(self, since: float) -> list[float]:
        """Of each stream the longest wait for a token that ended after ``since``, in ascending order."""
        waits = []
        for times in self.came_s.values():
            gaps = [later - max(earlier, since) for earlier, later in itertools.pairwise(times) if later > since]
            waits.append(max(gaps, default=0.0))
        return sorted(waits)


@dataclass
class Scene:
    """A ready job, the hosts that its workers are on, and what its clients see; ``runtime`` is what its job says so.

    While the file ``faults`` is there, messages are disturbed.
    """

    hosts: Hosts
    coordinator: Coordinator
    launcher: HostLauncher
    runtime: Mapping[str, object] = field(default_factory=dict)
    faults: Path = Path()
    expected: dict[int, list[TokenEvent]] = field(default_factory=dict)
    seen: Seen = field(default_factory=Seen)
    _over: bool = False
    _clients: list[asyncio.Task[None]] = field(default_factory=list)

    async def rehearse(self, streams: int = STREAMS) -> None:
        """Learn what each stream says undisturbed, and let workers compile; every third is sampled with a seed."""
        for turn in range(2):
            requests = [
                tiny_request(index, max_tokens=TOKENS, id=f"rehearsal{turn}-{index}") for index in range(streams)
            ]
            answers = await asyncio.gather(*(answer(self.coordinator, request) for request in requests))
            self.expected = dict(enumerate(answers))

    async def begin(self) -> None:
        """Let every stream run, one answer after another, and wait until all have tokens."""
        self._clients = [asyncio.create_task(self._client(index)) for index in self.expected]
        async with asyncio.timeout(120):
            while len(self.seen.came_s) < len(self.expected):
                await self.coordinator.changed()

    async def end(self) -> None:
        """Let answers that have begun come to their end."""
        self._over = True
        async with asyncio.timeout(240):
            await asyncio.gather(*self._clients)

    async def _client(self, index: int) -> None:
        for turn in itertools.count():
            if self._over:
                return
            request = tiny_request(index, max_tokens=TOKENS, id=f"stream{index}-{turn}")
            events = await self.ask(request, index)
            self.seen.compare([events], [self.expected[index]])
            if events is None:
                await asyncio.sleep(0.2)

    async def ask(self, request: GenerationRequest, index: int) -> list[TokenEvent] | None:
        """What is said to a request, each token's time noted; ``None`` for one that is lost."""
        events: list[TokenEvent] = []
        try:
            async for event in self.coordinator.submit(request):
                events.append(event)
                self.seen.came_s.setdefault(index, []).append(time.monotonic())
        except HelixError as error:
            self.seen.lost.append(str(error))
            return None
        return events


def scene_plan(hosts: Hosts, placement: dict[str, LayerRange], **runtime: object) -> Plan:
    """The tiny model on hosts."""
    nodes = {name: {"gpu": "toy", "address": hosts.address[name]} for name in placement}
    rules = {"max_batch": STREAMS, "max_prefill_tokens": 64, "port": 0} | runtime
    return tiny_plan(placement, kv_tokens=32768, nodes=nodes, coordinator={"address": HOME}, runtime=rules)


@asynccontextmanager
async def scene(
    folder: Path,
    placement: dict[str, LayerRange],
    *,
    tells: bool = True,
    hosts: Hosts | None = None,
    faults: str | None = None,
    seed: int = 1,
    **runtime: object,
) -> AsyncIterator[Scene]:
    """A ready job on hosts; ``tells`` as for ``HostLauncher``, ``faults`` are of a kind, and begin later."""
    hosts = hosts or Hosts(list(placement))
    plan = scene_plan(hosts, placement, **runtime)
    launcher, keys = HostLauncher(hosts, tells=tells), new_keys()
    encryption = endpoint_keys(keys.coordinator, keys.token) if plan.job.encrypts else None
    folder.mkdir(parents=True, exist_ok=True)
    job = Coordinator(plan, lambda _declared: launcher, log_dir=folder, token=keys.token, keys=encryption)
    switch = folder / "faults"
    with nullcontext() if faults is None else faulty(faults, seed, switch):
        await job.start()
        try:
            await job.wait_ready(240)
            yield Scene(hosts, job, launcher, runtime, switch)
        finally:
            await job.close()
