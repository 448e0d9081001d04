"""A cluster's links on one machine: an endpoint whose messages take as long as the declared links say.

A thin shell around ``pacing``. The sender of a message paces it, with the bytes it really has. Doesn't know what
messages mean, nor how long a device computes (``worker.paced_engine``).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping

from helix_df.graph.problem import Link, LinkTable
from helix_df.runtime.wire.framing import Frames
from helix_df.runtime.wire.keys import same_endpoint
from helix_df.runtime.wire.messages import Route
from helix_df.runtime.wire.pacing import Lane, PacedQueue
from helix_df.runtime.wire.transport import Endpoint

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
        self._queue: PacedQueue[tuple[str, Frames, bool]] = PacedQueue()
        self._changed = threading.Condition()
        self._closed = False
        self._carrier = threading.Thread(target=self._carry, name=f"links-of-{node}", daemon=True)
        self._carrier.start()

    @property
    def refused_connections(self) -> int:
        """See ``Endpoint``."""
        return self._endpoint.refused_connections

    @property
    def traffic(self) -> Mapping[str, Lane]:
        """What the links have carried so far, by the node they lead to."""
        return self._lanes

    def place(self, node: str, address: str) -> None:
        """Say that ``node`` listens at ``address``."""
        with self._changed:
            self._node_at[same_endpoint(address)] = node
            link = self._link_to(node)
            if link is not None and node not in self._lanes:
                self._lanes[node] = Lane(link.bytes_per_s, link.latency_s)

    def become(self, links: LinkTable) -> None:
        """Go by other links from now on: another plan takes over. What is under way arrives as it would have."""
        with self._changed:
            self._links = links
            for node in self._node_at.values():
                link = self._link_to(node)
                if link is None:
                    self._lanes.pop(node, None)
                elif node in self._lanes:
                    self._lanes[node].become(link.bytes_per_s, link.latency_s)
                else:
                    self._lanes[node] = Lane(link.bytes_per_s, link.latency_s)

    def place_all(self, route: Route) -> None:
        """Learn where the nodes of a route listen."""
        for hop, address in zip(route.hops, route.addresses, strict=True):
            self.place(hop.node, address)

    def send(self, address: str, frames: Frames, *, bulk: bool = False) -> None:
        """See ``Endpoint``."""
        with self._changed:
            lane = self._lanes.get(self._node_at.get(same_endpoint(address), ""))
            if lane is None or self._closed:
                self._endpoint.send(address, frames, bulk=bulk)
                return
            size = sum(memoryview(frame).nbytes for frame in frames)
            self._queue.put(lane, size, (address, frames, bulk), time.monotonic(), bulk=bulk)
            self._changed.notify()

    def watch(self, patience_s: float) -> None:
        """See ``Endpoint``."""
        self._endpoint.watch(patience_s)

    def unreachable(self) -> frozenset[str]:
        """See ``Endpoint``."""
        return self._endpoint.unreachable()

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

    def _link_to(self, node: str) -> Link | None:
        known = self._links.regions
        return self._links.find(self._node, node) if node in known and self._node in known else None

    def _carry(self) -> None:
        with self._changed:
            while not self._closed:
                self._hand_on(time.monotonic())
                next_s = self._queue.next_s()
                self._changed.wait(None if next_s is None else max(0.0, next_s - time.monotonic()))
            self._hand_on(float("inf"))

    def _hand_on(self, now: float) -> None:
        for address, frames, bulk in self._queue.arrived(now):
            self._endpoint.send(address, frames, bulk=bulk)
