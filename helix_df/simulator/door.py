"""Who is let in, and when: requests arrive or are drawn, wait at the coordinator, and start when there is room.

Owns the queue and the rules of admission. Which way a request goes is the router's affair, whether a node has room the
ledger's, and what becomes of a request that starts the world's.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from helix_df.simulator.ledger import LayerLedger
from helix_df.simulator.options import FeedByKv, HoldInFlight, Saturate
from helix_df.simulator.parts import RequestState

if TYPE_CHECKING:
    from helix_df.simulator.world import World

MOST_ATTEMPTS = 50
"""After so many a request is given up: it doesn't fit where it is sent."""


class Door:
    """Where requests of a trace enter a world."""

    def __init__(self, world: World) -> None:
        self.world, self.options = world, world.options
        self.requests: list[RequestState] = []
        self.waiting: deque[RequestState] = deque()
        self._wanted = world.trace.requests
        self._next = 0
        self._largest = world.network.widest(lambda stage: stage.kv_capacity // stage.width)
        self._saturate = world.trace.saturating and isinstance(self.options.feed, Saturate)
        self._blocked: tuple[RequestState | None, list[str]] = (None, [])

    # ------------------------------------------------------------------ arrivals

    def begin(self) -> None:
        """Plan the first arrivals."""
        feed = self.options.feed
        if not self.world.trace.saturating:
            self.world.at(self._wanted[0].arrival_s, self._on_arrival, None)
        elif isinstance(feed, Saturate):
            self.world.at(0.0, self.on_open, None)
        else:
            count = feed.count if isinstance(feed, HoldInFlight) else feed.initial
            for number in range(count):
                self.world.at(number * feed.spacing_s, self._on_feed, None)

    def feed_more(self, ended: bool) -> None:
        """Draw another request, if a feed that looks at requests under way now wants one; ``ended``: one has ended."""
        feed, ledger = self.options.feed, self.world.ledger
        if not self.world.trace.saturating or isinstance(feed, Saturate):
            return
        if isinstance(feed, FeedByKv):
            assert isinstance(ledger, LayerLedger), "this feed looks at expected use by layer"
            if ledger.fullest_layer() > feed.below:
                return
        elif not ended:
            return
        self.world.at(self.world.now + feed.delay_s, self._on_feed, None)

    def on_open(self, _: None) -> None:
        """Somebody may have room now."""
        self.admit()

    def put_back(self, request: RequestState) -> None:
        """Back to the head of the queue, with the tokens it has."""
        if request.attempts >= MOST_ATTEMPTS:
            request.rejected = True
        else:
            self.waiting.appendleft(request)

    def turn_all_away(self) -> None:
        """There is no way through the layers any more."""
        for request in self.waiting:
            request.rejected = True
        self.waiting.clear()

    def _on_arrival(self, _: None) -> None:
        wanted = self._wanted
        self._submit(RequestState(len(self.requests), self.world.now, wanted[self._next]))
        self._next += 1
        if self._next < len(wanted) and wanted[self._next].arrival_s <= self.options.end_s:
            self.world.at(wanted[self._next].arrival_s, self._on_arrival, None)

    def _on_feed(self, _: None) -> None:
        if self.world.now <= self.options.end_s:
            self._submit(self._drawn())

    def _drawn(self) -> RequestState:
        """The saturating trace's next request."""
        self._next += 1
        return RequestState(len(self.requests), self.world.now, self._wanted[(self._next - 1) % len(self._wanted)])

    def _submit(self, request: RequestState) -> None:
        self.requests.append(request)
        if request.most > self._largest or not self.world.path_up or len(self.waiting) >= self.options.max_queue:
            request.rejected = True
            return
        self.waiting.append(request)
        self.admit()

    # ------------------------------------------------------------------ admission

    def admit(self) -> None:
        """Start waiting requests, first come first served, for as long as pipelines have room."""
        while self.world.path_up:
            if not self.waiting and not self._draw():
                return
            if not self.waiting:
                continue
            request = self.waiting[0]
            if self._try(request):
                self.waiting.popleft()
            elif (self.options.when_full == "drop" and not self._saturate) or self._hopeless():
                self.waiting.popleft()
                request.rejected = True
            else:
                return

    def _draw(self) -> bool:
        """Have another request wait where they never run out; ``False`` if there is none to be had."""
        if not self._saturate:
            return False
        request = self._drawn()
        self.requests.append(request)
        if request.most <= self._largest:
            self.waiting.append(request)
            return True
        request.rejected = True
        return self._next <= 2 * len(self._wanted)

    def _hopeless(self) -> bool:
        """Whether a request without a way will never have one: nothing runs that could end, and no node will join."""
        return not self.world.active and self.world.joins_left == 0

    def _try(self, request: RequestState) -> bool:
        """Start the request if there is a pipeline for it."""
        world = self.world
        if world.by_hop:
            return world.start(request, None, 0)
        expected, most, up = self._expected(request), request.most, world.by_name
        if world.counts:
            world.router.weigh(request.tokens)
        admits = world.ledger.admitting(expected, most)
        full: list[str] = []

        def eligible(name: str) -> bool:
            if up[name].up and (world.open or admits(name)):
                return True
            full.append(name)
            return False

        # Whoever found no way last time finds none until one of the nodes that were in its way has room.
        if self._blocked[0] is request and not any(map(eligible, self._blocked[1])):
            return False
        full.clear()
        pipeline = world.router.route(eligible)
        if pipeline is None:
            self._blocked = (None if world.counts else request, full)
            return False
        return world.start(request, pipeline, expected)

    def _expected(self, request: RequestState) -> int:
        """Tokens of KV cache the request is expected to come to; the runtime's rule."""
        if request.cautious:
            return request.most
        answer = math.ceil(min(self.options.expected_output * request.wanted.max_tokens, self.options.mean_output))
        return min(request.most, max(request.tokens, request.wanted.input_tokens + answer))
