"""A cluster on one machine: an endpoint whose messages take as long as the declared links say, and a slowed engine.

Thin shells around ``pacing``. The sender of a message paces it, with the bytes it really has. Doesn't know what
messages mean.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from helix_df.graph.problem import LinkTable
from helix_df.runtime.messages import Frames, Route
from helix_df.runtime.pacing import Lane, PacedQueue
from helix_df.runtime.steps import Step, StepResult
from helix_df.runtime.transport import Endpoint

log = logging.getLogger(__name__)


class EmulatedEndpoint:
    """An endpoint of ``node`` that hands a message on once it would have arrived over the declared link.

    Which link that is follows from ``place``; to whoever hasn't been placed, or where no link is declared, messages go
    at once. A thread of its own waits for arrivals, so that sending never does.
    """

    def __init__(self, endpoint: Endpoint, node: str, links: LinkTable) -> None:
        self.address = endpoint.address
        self._endpoint = endpoint
        self._node = node
        self._links = links
        self._node_at: dict[str, str] = {}
        self._lanes: dict[str, Lane] = {}
        self._queue: PacedQueue[tuple[str, Frames]] = PacedQueue()
        self._changed = threading.Condition()
        self._closed = False
        self._carrier = threading.Thread(target=self._carry, name=f"links-of-{node}", daemon=True)
        self._carrier.start()

    @property
    def traffic(self) -> Mapping[str, Lane]:
        """What the links have carried so far, by the node they lead to."""
        return self._lanes

    def place(self, node: str, address: str) -> None:
        """Say that ``node`` listens at ``address``."""
        with self._changed:
            self._node_at[address] = node
            link = self._links.find(self._node, node)
            if link is not None and node not in self._lanes:
                self._lanes[node] = Lane(link.bytes_per_s, link.latency_s)

    def place_all(self, route: Route) -> None:
        """Learn where the nodes of a route listen."""
        for hop, address in zip(route.hops, route.addresses, strict=True):
            self.place(hop.node, address)

    def send(self, address: str, frames: Frames) -> None:
        """See ``Endpoint``."""
        with self._changed:
            lane = self._lanes.get(self._node_at.get(address, ""))
            if lane is None or self._closed:
                self._endpoint.send(address, frames)
                return
            size = sum(memoryview(frame).nbytes for frame in frames)
            self._queue.put(lane, size, (address, frames), time.monotonic())
            self._changed.notify()

    def receive(self, timeout_s: float | None) -> list[Frames]:
        """See ``Endpoint``."""
        return self._endpoint.receive(timeout_s)

    def wake(self) -> None:
        """See ``Endpoint``."""
        self._endpoint.wake()

    def close(self) -> None:
        """See ``Endpoint``. What is still under way arrives at once, so that nobody waits for a last word."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._carrier.join()
        for node, lane in self._lanes.items():
            log.info(
                "link to %s carried %d messages, %d bytes, in %.3f s", node, lane.messages, lane.bytes, lane.busy_s
            )
        self._endpoint.close()

    def _carry(self) -> None:
        with self._changed:
            while not self._closed:
                self._hand_on(time.monotonic())
                next_s = self._queue.next_s()
                self._changed.wait(None if next_s is None else max(0.0, next_s - time.monotonic()))
            self._hand_on(float("inf"))

    def _hand_on(self, now: float) -> None:
        for address, frames in self._queue.arrived(now):
            self._endpoint.send(address, frames)


@dataclass(slots=True)
class Slowness:
    """How long to rest after each piece of work, so that all takes ``1 / speed`` times as long.

    A rest that came out too long, or work that was held up, is made good by the following rests, up to the length of
    the last piece.
    """

    speed: float
    _ahead_s: float = 0.0

    def rest_s(self, wall_s: float, busy_s: float) -> float:
        """Seconds to rest after work that took ``wall_s`` seconds, of which ``busy_s`` were its own."""
        whole_s = busy_s / self.speed
        self._ahead_s = max(-whole_s, self._ahead_s + whole_s - wall_s)
        return max(0.0, self._ahead_s)

    def rested(self, seconds: float) -> None:
        """So long the rest really was."""
        self._ahead_s -= seconds


class CountingEngine(Protocol):
    """An engine that says when it compiles, as ``Engine`` does."""

    @property
    def kv_tokens(self) -> int: ...

    @property
    def cold_shapes(self) -> int: ...

    @property
    def compilations(self) -> int: ...

    def run(self, steps: Sequence[Step]) -> Sequence[StepResult]: ...

    def release(self, request: str) -> None: ...

    def fork(self, parent: str, child: str, tokens: int) -> None: ...

    def trim(self, request: str, tokens: int) -> None: ...

    def warm_up(self) -> Iterator[object]: ...


class SlowedEngine:
    """An engine at a share of its speed: after each batch it waits out the rest of the time.

    Args:
        engine: what computes.
        speed: above 0, at most 1.
        on_cpu: whether the engine computes on this process' own threads. Then time that others took the core away
            isn't counted as work; the workers of a machine would else slow each other by more than their share.
        wall: seconds of a monotonic clock.
        cpu: seconds of processor time that this process has used.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        engine: CountingEngine,
        speed: float,
        *,
        on_cpu: bool,
        wall: Callable[[], float] = time.perf_counter,
        cpu: Callable[[], float] = time.process_time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._engine = engine
        self._slowness = Slowness(speed)
        self._on_cpu = on_cpu
        self._wall, self._cpu, self._sleep = wall, cpu, sleep

    @property
    def kv_tokens(self) -> int:
        """See ``StepEngine``."""
        return self._engine.kv_tokens

    @property
    def cold_shapes(self) -> int:
        """See ``StepEngine``."""
        return self._engine.cold_shapes

    def release(self, request: str) -> None:
        """See ``StepEngine``."""
        self._engine.release(request)

    def fork(self, parent: str, child: str, tokens: int) -> None:
        """See ``StepEngine``."""
        self._engine.fork(parent, child, tokens)

    def trim(self, request: str, tokens: int) -> None:
        """See ``StepEngine``."""
        self._engine.trim(request, tokens)

    def warm_up(self) -> Iterator[object]:
        """See ``StepEngine``. Compiling isn't slowed: it is no part of what a profile measures."""
        return self._engine.warm_up()

    def run(self, steps: Sequence[Step]) -> Sequence[StepResult]:
        """See ``StepEngine``."""
        wall, cpu, compiled = self._wall(), self._cpu(), self._engine.compilations
        results = self._engine.run(steps)
        if self._engine.compilations == compiled:
            self._rest(self._wall() - wall, self._cpu() - cpu)
        return results

    def _rest(self, wall_s: float, cpu_s: float) -> None:
        # Several threads use more processor time than passes; then all that passes is work.
        rest_s = self._slowness.rest_s(wall_s, min(wall_s, cpu_s) if self._on_cpu else wall_s)
        if rest_s > 0:
            started = self._wall()
            self._sleep(rest_s)
            self._slowness.rested(self._wall() - started)
