"""The event loop: requests start, run through their stages and come home token by token; nodes go and come.

Owns the order of events and what follows from each. Who starts is decided at the ``door``, what happens on a stage in
``stage``, which way a request goes in the scheduler's router, and whether a node has room in the runtime's ledger.
"""

from __future__ import annotations

import gc
import heapq
from array import array
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from helix_df.graph.problem import COORDINATOR
from helix_df.layers import LayerRange
from helix_df.rules.micro_batches import MicroBatches, micro_batches
from helix_df.rules.routing import KvLedger, Pipeline
from helix_df.rules.schedulers.api import HopObserver, HopRouter, TokenCounter, View
from helix_df.rules.schedulers.registry import get_scheduler
from helix_df.simulator.door import Door
from helix_df.simulator.ledger import LayerLedger, reserve
from helix_df.simulator.meter import Meter
from helix_df.simulator.network import Network
from helix_df.simulator.options import Options
from helix_df.simulator.parts import Attempt, Link, Piece, RequestState, Run
from helix_df.simulator.setup import Setup
from helix_df.simulator.stage import NEVER, Stage
from helix_df.simulator.trace import Trace

Way = tuple[dict[int, Link], list[tuple[Stage, int, int]], MicroBatches]
"""A pipeline: the link by which each stage is left, the stages with KV weight and life, and its micro-batches."""

HOME = -1
"""The coordinator's place in an attempt's route."""

EVENTS_A_LOOK = 2048
"""Events between two looks at the watch."""


class Watch(Protocol):
    """Somebody who looks on and may end the run."""

    def looks(self, now_s: float, end_s: float) -> bool:
        """Hear how far the simulation is; ``False`` ends it there."""
        ...


class World:
    """One simulation on its way."""

    def __init__(self, setup: Setup, trace: Trace, options: Options) -> None:
        self.setup, self.trace, self.options = setup, trace, options
        self.now = 0.0
        self.network = Network(setup, options)
        self.stages = self.network.stages
        self.by_name = {self.network.code(stage.index): stage for stage in self.stages}
        self.ledger = self._ledger()
        self.router: Any = get_scheduler(options.scheduler)(self._view())
        self.observes = isinstance(self.router, HopObserver)
        self.counts = isinstance(self.router, TokenCounter)
        self.open = options.admission == "open"
        self.bundles = options.bundles
        self.by_hop = options.routing == "hop" and isinstance(self.router, HopRouter)
        self.path_up = True
        self.active: dict[str, Attempt] = {}
        self.pipelines: dict[tuple[str, ...], Way] = {}
        self.dead = 0
        self.decode_tokens = 0
        self.prompt_tokens = 0
        self.all_tokens = 0
        self.gaps = array("f")
        self.door = Door(self)
        self.meter = Meter(self)
        self._heap: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._order = 0
        self.door.begin()
        self._begin_events()
        self.meter.begin()

    # ------------------------------------------------------------------ set-up

    def _ledger(self) -> KvLedger:
        capacity = {name: stage.kv_capacity // stage.width for name, stage in self.by_name.items()}
        if not self.options.kv_by_layer:
            return KvLedger(capacity, self.options.kv_high_water)
        layers: dict[str, LayerRange] = {name: stage.layers for name, stage in self.by_name.items()}
        return LayerLedger(capacity, self.options.kv_high_water, layers=layers)

    def _view(self) -> View:
        network = self.network
        return View(
            placement={name: stage.layers for name, stage in self.by_name.items()},
            adjacency=network.ways,
            edges=network.edges,
            seed=self.options.seed,
            waiting=self._queue_seen,
            link_free_in_s=self._link_seen,
        )

    def _queue_seen(self, name: str) -> int:
        if self.options.sees == "everything":
            return self.by_name[name].waiting(self.now)
        return sum(name in attempt.names for attempt in self.active.values())

    def _link_seen(self, tail: str, head: str) -> float:
        if self.options.sees == "everything":
            return max(0.0, self.network.link(tail, head).free_s - self.now)
        return 0.0

    def _begin_events(self) -> None:
        seen: set[str] = set()
        self.joins_left = sum(event.up for event in self.options.events)
        for event in sorted(self.options.events, key=lambda event: event.time_s):
            stage = self.network.find(event.node)
            if event.up and event.node not in seen:
                self._take_down(stage)
            seen.add(event.node)
            self.at(event.time_s, self._on_node_up if event.up else self._on_node_down, stage)
        self.path_up = self.network.path_up()

    # ------------------------------------------------------------------ the loop

    def at(self, time_s: float, handler: Callable[[Any], None], what: Any) -> None:
        """Let ``handler`` be called with ``what`` at ``time_s``; events of the same time keep their order."""
        self._order += 1
        heapq.heappush(self._heap, (time_s, self._order, handler, what))

    def run(self, watch: Watch | None) -> bool:
        """Run to the end; ``True`` if the watch ended it early."""
        # Hardly anything here is part of a cycle, and looking for some takes a tenth of the time.
        collects = gc.isenabled()
        gc.disable()
        try:
            return self._run(watch)
        finally:
            if collects:
                gc.enable()

    def advance(self, until_s: float) -> bool:
        """Run until a simulated second and no further than the window; whether there is more to come."""
        heap = self._heap
        while heap and heap[0][0] <= min(until_s, self.options.end_s):
            self.now, _, handler, what = heapq.heappop(heap)
            handler(what)
        return bool(heap) and until_s < self.options.end_s

    def _run(self, watch: Watch | None) -> bool:
        heap, pop, end = self._heap, heapq.heappop, self.options.end_s
        drain = self.options.drain and not self.trace.saturating
        count = 0
        while heap:
            time, _, handler, what = pop(heap)
            if time > end and not drain:
                break
            assert time >= self.now, f"time runs backwards from {self.now} to {time}"
            self.now = time
            handler(what)
            count += 1
            if watch is not None and count % EVENTS_A_LOOK == 0 and not watch.looks(time, end):
                return True
        self.now = max(self.now, end) if drain else end
        return False

    # ------------------------------------------------------------------ starts

    def start(self, request: RequestState, pipeline: Pipeline | None, expected: int) -> bool:
        """Send a request on its way, without a pipeline hop by hop; ``False`` when nobody is up for its first hop."""
        key = f"{request.index}/{request.attempts}"
        left = request.wanted.output_tokens - request.generated
        attempt = Attempt(request, key, self.now, request.tokens, left)
        if pipeline is not None:
            if not self.open:
                reserve(self.ledger, key, pipeline, expected)
            attempt.names = tuple(hop.node for hop in pipeline)
            attempt.route, attempt.hops, batches = self._way(attempt.names)
            entrance = attempt.hops[0][0].entrance
            if entrance is not None:
                entrance.enter(key, batches)
        elif not self._choose(attempt, HOME, COORDINATOR):
            return False
        if request.attempts == 0:
            request.admitted_s = self.now
        else:
            attempt.last_s = request.last_token_s if request.generated else self.now
        request.attempts += 1
        self.active[key] = attempt
        size = self.options.prefill_chunk or attempt.prompt
        sizes = [size] * (attempt.prompt // size) + ([attempt.prompt % size] if attempt.prompt % size else [])
        attempt.flying = len(sizes)
        for number, tokens in enumerate(sizes, 1):
            self._send_piece(attempt.route[HOME], Piece(attempt, tokens, number == len(sizes)))
        return True

    def _way(self, names: tuple[str, ...]) -> Way:
        known = self.pipelines.get(names)
        if known is None:
            route: dict[int, Link] = {}
            hops: list[tuple[Stage, int, int]] = []
            step_s: list[float] = []
            here, tail = HOME, COORDINATOR
            for name in names:
                link = self.network.link(tail, name)
                route[here] = link
                stage = self.by_name[name]
                hops.append((stage, self._weight(stage, link), stage.life))
                step_s.append(link.width * stage.timing.decode_s(1))
                here, tail = stage.index, name
            route[here] = self.network.link(tail, COORDINATOR)
            batches = micro_batches(step_s, sum(link.latency_s for link in route.values()))
            known = self.pipelines[names] = (route, hops, batches)
        return known

    def _weight(self, stage: Stage, link: Link) -> int:
        return link.width if self.options.kv_by_layer and stage.mixed else stage.width

    def _choose(self, attempt: Attempt, here: int, tail: str) -> bool:
        """Let the router pick the next hop; ``False`` when all are down."""
        heads = [head for head in self.network.ways[tail] if head == COORDINATOR or self.by_name[head].up]
        if not heads:
            return False
        chosen = self.router.choose(tail, heads, attempt.prompt)
        link = self.network.link(tail, chosen)
        attempt.route[here] = link
        if link.head is not None:
            attempt.hops.append((link.head, self._weight(link.head, link), link.head.life))
        return True

    # ------------------------------------------------------------------ links

    def _send_piece(self, link: Link, piece: Piece) -> None:
        if link.head is None:
            arrive, _, _ = link.carry(self.now, 1, 1, 0.0)
            self.at(arrive, self._on_prefilled, piece)
            return
        arrive, _, sent = link.carry(self.now, 1, piece.tokens, 0.0)
        self._order += 1
        self._deliver(link.head, Run(arrive, self._order, link, [], 0.0, piece, sent))

    def _send_steps(self, link: Link, steps: list[Attempt], spacing_s: float) -> None:
        arrive, apart, sent = link.carry(self.now, len(steps), 1, spacing_s)
        if self.bundles:
            arrive, apart = arrive + (len(steps) - 1) * apart, 0.0
        if link.head is None:
            self.at(arrive, self._on_home, (steps, apart))
            return
        self._order += 1
        self._deliver(link.head, Run(arrive, self._order, link, steps, apart, None, sent))

    def _deliver(self, stage: Stage, run: Run) -> None:
        inbox = stage.inbox
        if inbox and inbox[-1].arrive_s > run.arrive_s:
            stage.unsorted = True
        inbox.append(run)
        if not stage.busy and run.arrive_s < stage.wake_s:
            stage.wake_s = run.arrive_s
            self.at(run.arrive_s, self._on_wake, stage)

    # ------------------------------------------------------------------ stages

    def _on_wake(self, stage: Stage) -> None:
        if not stage.busy and stage.wake_s == self.now:
            stage.wake_s = NEVER
            self._begin(stage)

    def _begin(self, stage: Stage) -> None:
        """Start the stage's next batch, or wait for the next arrival."""
        while True:
            if self.dead:
                self._purge(stage)
            end, refused = stage.begin(self.now, self.options.kv_by_layer)
            for run in refused:
                self._refuse(stage, run)
            if end < NEVER:
                self.at(end, self._on_batch_end, (stage, stage.batch_number))
                return
            if not refused:
                break
        inbox = stage.inbox
        if inbox:
            # What has arrived by now was taken, and what is left is sorted.
            stage.wake_s = inbox[0].arrive_s if not stage.unsorted else stage.next_arrival_s()
            self.at(stage.wake_s, self._on_wake, stage)
        else:
            stage.wake_s = NEVER

    def _on_batch_end(self, what: tuple[Stage, int]) -> None:
        stage, number = what
        if not stage.busy or stage.batch_number != number:
            return
        done = stage.end()
        if done:
            self._send_out(stage, done)
        self._begin(stage)

    def _send_out(self, stage: Stage, batch: Sequence[Run]) -> None:
        """Pass on what has been through a stage, in the batch's order; steps between two prompts go together."""
        if len(batch) == 1 and batch[0].piece is None and not self.observes:
            self._pass_steps(stage, batch[0].steps)
            return
        steps: list[Attempt] = []
        for run in batch:
            if self.observes:
                self.router.observe(
                    run.link.tail_name, self.network.code(stage.index), self.now - run.sent_s, len(run.steps) or 1
                )
            if run.piece is None:
                steps.extend(run.steps)
                continue
            if steps:
                self._pass_steps(stage, steps)
                steps = []
            self._pass_piece(stage, run.piece)
        if steps:
            self._pass_steps(stage, steps)

    def _pass_steps(self, stage: Stage, steps: list[Attempt]) -> None:
        if self.dead:
            steps = self._living(steps, stage, inclusive=True)
        if stage.only_link is not None:
            if steps:
                self._send_steps(stage.only_link, steps, 0.0)
            return
        here = stage.index
        groups: dict[Link, list[Attempt]] = {}
        for attempt in steps:
            link = attempt.route[here]
            group = groups.get(link)
            if group is None:
                groups[link] = [attempt]
            else:
                group.append(attempt)
        for link, group in groups.items():
            self._send_steps(link, group, 0.0)

    def _pass_piece(self, stage: Stage, piece: Piece) -> None:
        attempt = piece.attempt
        if not attempt.alive:
            self._drop(attempt, piece.tokens, stage, inclusive=True)
            return
        if stage.index not in attempt.route and not self._choose(attempt, stage.index, self.network.code(stage.index)):
            self._kill(attempt)
            self._drop(attempt, piece.tokens, stage, inclusive=True)
            self.door.put_back(attempt.job)
            return
        link = attempt.route[stage.index]
        if link.head is None and not piece.last:
            attempt.confirmed += piece.tokens
            attempt.flying -= 1
        else:
            self._send_piece(link, piece)

    # ------------------------------------------------------------------ home

    def _on_prefilled(self, piece: Piece) -> None:
        attempt = piece.attempt
        if not attempt.alive:
            self._drop(attempt, piece.tokens, None, inclusive=True)
            return
        attempt.confirmed += piece.tokens
        request = attempt.job
        inside = self.options.warmup_s <= self.now <= self.options.end_s
        if inside:
            self.prompt_tokens += attempt.prompt
        if request.first_token_s != request.first_token_s:
            request.first_token_s = self.now
            attempt.last_s = self.now
        if self.options.prefill_gives_token:
            if inside:
                self.decode_tokens += 1
                if self.now > attempt.last_s:
                    self.gaps.append(self.now - attempt.last_s)
            self.all_tokens += 1
            attempt.last_s = request.last_token_s = self.now
            attempt.left -= 1
            if self.counts:
                self.router.spent(attempt.names, 1)
        self.door.feed_more(ended=False)
        if attempt.left == 0:
            self._on_end(attempt)
        else:
            self._send_steps(attempt.route[HOME], [attempt], 0.0)

    def _on_home(self, what: tuple[list[Attempt], float]) -> None:
        """Tokens come home; whoever isn't done goes round again."""
        steps, apart = what
        if self.dead:
            steps = self._living(steps, None, inclusive=True)
        time, inside = self.now, self.options.warmup_s <= self.now <= self.options.end_s
        gaps = self.gaps
        again: list[Attempt] = []
        done = False
        for attempt in steps:
            if inside:
                gaps.append(time - attempt.last_s)
            attempt.last_s = time
            attempt.confirmed += 1
            attempt.left -= 1
            if attempt.left:
                again.append(attempt)
            else:
                done = True
                self.at(time, self._on_end, attempt)
            time += apart
        self.all_tokens += len(steps)
        if inside:
            self.decode_tokens += len(steps)
        if self.counts:
            for attempt in steps:
                self.router.spent(attempt.names, 1)
        if again:
            self._round_again(again, apart if not done else 0.0)

    def _round_again(self, steps: list[Attempt], apart: float) -> None:
        first = steps[0].route[HOME]
        if len(self.network.first_links) == 1 or all(attempt.route[HOME] is first for attempt in steps):
            self._send_steps(first, steps, apart)
            return
        groups: dict[Link, list[Attempt]] = {}
        for attempt in steps:
            groups.setdefault(attempt.route[HOME], []).append(attempt)
        for link, group in groups.items():
            self._send_steps(link, group, apart)

    def _on_end(self, attempt: Attempt) -> None:
        if not attempt.alive:
            return
        request = attempt.job
        self._leave(attempt)
        attempt.alive = False
        request.finished_s = self.now
        self.door.feed_more(ended=True)
        self.door.admit()

    # ------------------------------------------------------------------ what goes wrong

    def _leave(self, attempt: Attempt) -> None:
        """Free what the attempt holds for the tokens that every stage has; the request keeps its tokens."""
        self.ledger.release(attempt.key)
        del self.active[attempt.key]
        for stage, weight, life in attempt.hops:
            if stage.life == life:
                stage.kv_used -= attempt.confirmed * weight
        self._leave_entrance(attempt)
        request = attempt.job
        request.generated = request.wanted.output_tokens - attempt.left
        request.last_token_s = attempt.last_s

    def _leave_entrance(self, attempt: Attempt) -> None:
        stage = attempt.hops[0][0]
        if stage.entrance is not None:
            stage.entrance.leave(attempt.key)
            if stage.decodes and not stage.busy and self.now < stage.wake_s:
                # Its batch is back, for which others may have waited.
                stage.wake_s = self.now
                self.at(self.now, self._on_wake, stage)

    def _kill(self, attempt: Attempt) -> None:
        self._leave(attempt)
        attempt.alive = False
        self.dead += attempt.flying

    def _drop(self, attempt: Attempt, tokens: int, at: Stage | None, *, inclusive: bool) -> None:
        """Forget a step of a dead attempt: stages before ``at`` (with ``inclusive``, it too) held its tokens."""
        self.dead -= 1
        for stage, weight, life in attempt.hops:
            if stage is at and not inclusive:
                return
            if stage.life == life:
                stage.kv_used -= tokens * weight
            if stage is at:
                return

    def _living(self, steps: list[Attempt], at: Stage | None, *, inclusive: bool) -> list[Attempt]:
        living = []
        for attempt in steps:
            if attempt.alive:
                living.append(attempt)
            else:
                self._drop(attempt, 1, at, inclusive=inclusive)
        return living

    def _purge(self, stage: Stage) -> None:
        """Forget the steps of dead attempts that wait on a stage."""
        stage.take_arrived(self.now)
        for queue in stage.queues():
            kept: list[Run] = []
            for run in queue:
                entered = stage.entered(run)
                if run.piece is not None:
                    if run.piece.attempt.alive:
                        kept.append(run)
                    else:
                        self._drop(run.piece.attempt, run.piece.tokens, stage, inclusive=entered)
                    continue
                living = self._living(run.steps, stage, inclusive=entered)
                if living:
                    kept.append(run if len(living) == len(run.steps) else run._replace(steps=living))
            queue[:] = kept

    def _refuse(self, stage: Stage, run: Run) -> None:
        """A step found the KV cache full: its request starts over elsewhere, and more carefully."""
        attempt = run.piece.attempt if run.piece is not None else run.steps[0]
        tokens = run.piece.tokens if run.piece is not None else 1
        if attempt.alive:
            self._kill(attempt)
            attempt.job.cautious = True
            self._drop(attempt, tokens, stage, inclusive=False)
            self.door.put_back(attempt.job)
            self.at(self.now, self.door.on_open, None)
        else:
            self._drop(attempt, tokens, stage, inclusive=False)

    def _on_node_down(self, stage: Stage) -> None:
        if not stage.up:
            return
        lost = [attempt for attempt in self.active.values() if any(hop is stage for hop, _, _ in attempt.hops)]
        for attempt in reversed(lost):
            self._kill(attempt)
            self.door.put_back(attempt.job)
        runs = [*stage.batch, *stage.everything()]
        self._take_down(stage)
        for run in runs:
            if run.piece is not None:
                self._drop(run.piece.attempt, run.piece.tokens, stage, inclusive=False)
            else:
                self._living(run.steps, stage, inclusive=False)
        self.path_up = self.network.path_up()
        if not self.path_up:
            self.door.turn_all_away()
        self.door.admit()

    def _take_down(self, stage: Stage) -> None:
        stage.stop(self.now)
        self.pipelines.clear()
        self.ledger.capacity.pop(self.network.code(stage.index), None)

    def _on_node_up(self, stage: Stage) -> None:
        self.joins_left -= 1
        if stage.up:
            return
        stage.up = True
        self.ledger.capacity[self.network.code(stage.index)] = stage.kv_capacity // stage.width
        self.path_up = self.network.path_up()
        self.door.admit()
