"""A stage: its queues, its batches, the seconds they take and the KV cache they fill.

Owns what happens on one node. Doesn't know where requests come from, and leaves sending to whoever drives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

from helix_df.graph.problem import COORDINATOR
from helix_df.rules.micro_batches import Entrance
from helix_df.simulator.options import Options
from helix_df.simulator.parts import Attempt, Link, Nic, Run
from helix_df.simulator.setup import StageSetup

NEVER = float("inf")
LONG_CONTEXT = 4096
"""Tokens of context that no step is taken to exceed, so that a limit on the sum need not be counted out."""

_BY_ARRIVAL = itemgetter(0, 1)


class Stage:
    """A node that runs a batch through all its layers at a time."""

    def __init__(self, index: int, setup: StageSetup, options: Options, activation_bytes: float) -> None:
        self.index = index
        self.name = setup.name
        self.layers = setup.layers
        self.width = len(setup.layers)
        self.timing = setup.timing
        self.kv_capacity = setup.kv_tokens * self.width
        self.links: dict[str, Link] = {}
        self.only_link: Link | None = None
        self.mixed = False
        self.up = True
        self.life = 0
        self.inbox: list[Run] = []
        self.unsorted = False
        self.decodes: list[Run] = []
        self.prompts: list[Run] = []
        self.batch: list[Run] = []
        self.batch_number = 0
        self.batch_steps = 0
        self.busy_until_s = NEVER
        self.busy = False
        self.wake_s = NEVER
        self.received = 0
        self.kv_used = 0
        self.kv_peak = 0
        self.busy_s = 0.0
        self.batches = 0
        self.decode_batches = 0
        self.decode_steps = 0
        self.prompt_tokens = 0
        self.nic_in: Nic | None = None
        self.nic_out: Nic | None = None
        limits = [limit for limit in (options.max_batch, setup.timing.max_batch) if limit is not None]
        self.max_batch = min(limits) if limits else 10**9
        self.entrance = Entrance(self.max_batch) if options.keeps_micro_batches else None
        self.max_prompts = setup.timing.max_prompts or 10**9
        self.max_context = self.max_batch * options.context_per_slot if options.context_per_slot else None
        self.decode_first = options.batching == "decode_first"
        self.prefill_budget = options.max_prefill_tokens or 10**9
        self.merge_prefills = options.merge_prefills
        self.copy_s = activation_bytes / options.copy_bytes_per_s if options.copy_bytes_per_s else 0.0
        self._prefill_s: dict[int, float] = {}
        self._decode_s: dict[int, float] = {}

    # ------------------------------------------------------------------ queues

    def take_arrived(self, now: float) -> None:
        """Move what has arrived into the queues."""
        inbox = self.inbox
        if self.unsorted:
            inbox.sort()
            self.unsorted = False
        count = 0
        rest: list[Run] = []
        for run in inbox:
            if run.arrive_s > now:
                break
            count += 1
            piece = run.piece
            if piece is not None:
                self.received += piece.tokens
                self.queue(run)
                continue
            steps = run.steps
            if run.apart_s > 0.0 and len(steps) > 1 and run.arrive_s + run.apart_s * (len(steps) - 1) > now:
                here = int((now - run.arrive_s) / run.apart_s) + 1
                if here < len(steps):
                    later = run.arrive_s + here * run.apart_s
                    rest.append(
                        Run(
                            later,
                            run.order,
                            run.link,
                            steps[here:],
                            run.apart_s,
                            None,
                            run.sent_s + later - run.arrive_s,
                        )
                    )
                    run = run._replace(steps=steps[:here])
            self.received += len(run.steps)
            self.queue(run)
        if count:
            inbox[:count] = rest
            self.unsorted = bool(rest) and len(inbox) > 1

    def queue(self, run: Run) -> None:
        """Put a run that is here at the end of its queue."""
        (self.decodes if run.piece is None else self.prompts).append(run)
        if self.entrance is not None:
            for attempt in run.steps:
                self.entrance.back(attempt.key)

    def next_arrival_s(self) -> float:
        """When the next run arrives; ``NEVER`` if none is on its way."""
        if self.unsorted:
            self.inbox.sort()
            self.unsorted = False
        return self.inbox[0].arrive_s if self.inbox else NEVER

    def waiting(self, now: float) -> int:
        """Requests that wait here and aren't in the batch."""
        queued = sum(len(run.steps) for run in self.decodes) + len(self.prompts)
        return queued + sum(len(run.steps) or 1 for run in self.inbox if run.arrive_s <= now)

    def queues(self) -> list[list[Run]]:
        """All queues, to be looked through."""
        return [self.decodes, self.prompts]

    def entered(self, run: Run) -> bool:
        """Whether a queued run has begun here, so that its tokens are in the KV cache."""
        return False

    def stop(self, now: float) -> None:
        """The node is gone: whatever it held is lost, and the rest of its batch was never computed."""
        if self.busy:
            self.busy_s -= self.busy_until_s - now
        self.batch = []
        self.busy = False
        self.up = False
        self.life += 1
        self.entrance = self.entrance and Entrance(self.max_batch)
        self.wake_s = NEVER
        self.received = 0
        self.kv_used = 0
        self.unsorted = False

    def everything(self) -> list[Run]:
        """All runs queued here or on their way, without the batch; they are forgotten."""
        runs = [*self.inbox, *self.decodes, *self.prompts]
        self.inbox, self.decodes, self.prompts = [], [], []
        return runs

    # ------------------------------------------------------------------ batches

    def begin(self, now: float, by_layer: bool) -> tuple[float, Sequence[Run]]:
        """Start the next batch if something waits; when it ends (``NEVER``: nothing to do) and what didn't fit."""
        inbox = self.inbox
        if inbox and (self.unsorted or inbox[0].arrive_s <= now):
            self.take_arrived(now)
        if not self.decodes and not self.prompts:
            return NEVER, ()
        decodes, steps = self._take_decodes(self.decodes)
        prompts = self._take_prompts(self.prompts, steps) if self.prompts else []
        tokens = sum(run.piece.tokens for run in prompts if run.piece is not None) if prompts else 0
        batch = _merged(decodes, prompts)
        if not batch:
            return NEVER, ()
        if self.mixed:
            need = sum(_tokens(run) * (run.link.width if by_layer else self.width) for run in batch)
        else:
            need = (steps + tokens) * self.width
        refused: list[Run] = []
        if self.kv_used + need > self.kv_capacity:
            batch, refused = self._fitting(batch, by_layer)
            steps = sum(len(run.steps) for run in batch)
            if not batch:
                return NEVER, refused
        else:
            self._fill(need)
        if self.mixed:
            seconds = self._mixed_s(batch)
        else:
            seconds = self.width * self._layer_s(steps, prompts if not refused else batch)
        if self.copy_s:
            seconds += self.copy_s * self.received
            self.received = 0
        return self._run(now, batch, steps, seconds), refused

    def _take_decodes(self, queue: list[Run]) -> tuple[list[Run], int]:
        """Decode steps for a batch, off the front of the queue, and how many they are."""
        steps = 0
        for run in queue:
            steps += len(run.steps)
        if steps <= self.max_batch and self.entrance is None:
            taken = queue[:]
            queue.clear()
        else:
            taken, steps = self._take_some(queue)
        if self.max_context is not None and steps * LONG_CONTEXT > self.max_context:
            taken, back = _within(self.max_context, taken)
            queue[:0] = back
            steps = sum(len(run.steps) for run in taken)
        return taken, steps

    def _take_some(self, queue: list[Run]) -> tuple[list[Run], int]:
        """At most a full batch, and of those that enter their pipeline here as many as there is room for."""
        room = self.max_batch
        share = room if self.entrance is None else self.entrance.room()
        taken: list[Run] = []
        left: list[Run] = []
        entering: list[str] = []
        for run in queue:
            enters = run.link.tail_name == COORDINATOR
            size = min(len(run.steps), room, share if enters else room)
            if size:
                taken.append(run._replace(steps=run.steps[:size]))
            if size < len(run.steps):
                left.append(run._replace(steps=run.steps[size:]))
            room -= size
            if enters and self.entrance is not None:
                share -= size
                entering += (attempt.key for attempt in run.steps[:size])
        queue[:] = left
        if self.entrance is not None:
            self.entrance.launch(entering)
        return taken, self.max_batch - room

    def _take_prompts(self, queue: list[Run], steps: int) -> list[Run]:
        """Prompts for a batch of so many decode steps, off the front of the queue."""
        most = min(self.max_prompts, self.max_batch - steps) if self.decode_first else self.max_prompts
        budget = self.prefill_budget
        count = 0
        for run in queue:
            assert run.piece is not None
            if count >= most or (run.piece.tokens > budget and budget < self.prefill_budget):
                break
            budget -= run.piece.tokens
            count += 1
        taken = queue[:count]
        del queue[:count]
        return taken

    def _mixed_s(self, batch: list[Run]) -> float:
        """Decode steps of the same layers run together; whatever skips layers runs on its own."""
        by_width: dict[int, list[Run]] = {}
        for run in batch:
            by_width.setdefault(run.link.width, []).append(run)
        return sum(width * self._layer_s(sum(len(run.steps) for run in runs), runs) for width, runs in by_width.items())

    def _layer_s(self, steps: int, runs: Sequence[Run]) -> float:
        """Seconds a layer takes for so many decode steps and the prompts among ``runs``."""
        seconds = 0.0
        if steps:
            known = self._decode_s.get(steps)
            if known is None:
                known = self._decode_s[steps] = self.timing.decode_s(steps)
            seconds = known
        if runs:
            prompts = [run.piece.tokens for run in runs if run.piece is not None]
            if self.merge_prefills and len(prompts) > 1:
                prompts = [sum(prompts)]
            for tokens in prompts:
                known = self._prefill_s.get(tokens)
                if known is None:
                    known = self._prefill_s[tokens] = self.timing.prefill_s(tokens)
                seconds += known
        return seconds

    def _fill(self, need: int) -> None:
        self.kv_used += need
        if self.kv_used > self.kv_peak:
            self.kv_peak = self.kv_used

    def _fitting(self, batch: list[Run], by_layer: bool) -> tuple[list[Run], list[Run]]:
        """The batch without what the KV cache has no room for, which is the second part; what fits is counted."""

        def need(run: Run) -> int:
            return _tokens(run) * (run.link.width if by_layer and self.mixed else self.width)

        fits = list(batch)
        refused: list[Run] = []
        total = sum(map(need, fits))
        while fits and self.kv_used + total > self.kv_capacity:
            run = fits.pop()
            refused.append(run._replace(steps=run.steps[-1:]))
            total -= need(refused[-1])
            if len(run.steps) > 1:
                fits.append(run._replace(steps=run.steps[:-1]))
        self._fill(total)
        return fits, refused

    def _run(self, now: float, batch: list[Run], steps: int, seconds: float) -> float:
        self.batch = batch
        self.batch_steps = steps
        self.batch_number += 1
        self.busy = True
        self.busy_s += seconds
        self.batches += 1
        self.busy_until_s = now + seconds
        return self.busy_until_s

    def end(self) -> Sequence[Run]:
        """End the batch; what of it has been through all layers."""
        batch, self.batch = self.batch, []
        self.busy = False
        if self.batch_steps:
            self.decode_batches += 1
            self.decode_steps += self.batch_steps
        for run in batch:
            if run.piece is not None:
                self.prompt_tokens += run.piece.tokens
        return batch


def _tokens(run: Run) -> int:
    return run.piece.tokens if run.piece is not None else len(run.steps)


def _merged(decodes: list[Run], prompts: list[Run]) -> list[Run]:
    """Both in the order they arrived."""
    if decodes and prompts:
        return sorted([*decodes, *prompts], key=_BY_ARRIVAL)
    return decodes or prompts


def _within(limit: int, taken: list[Run]) -> tuple[list[Run], list[Run]]:
    """The steps whose context together stays within the limit, first come first, and the others."""
    context = 0
    fits: list[Run] = []
    back: list[Run] = []
    for run in taken:
        inside: list[Attempt] = []
        outside: list[Attempt] = []
        for attempt in run.steps:
            if context + attempt.confirmed <= limit:
                context += attempt.confirmed
                inside.append(attempt)
            else:
                outside.append(attempt)
        if inside:
            fits.append(run._replace(steps=inside) if outside else run)
        if outside:
            back.append(run._replace(steps=outside))
    return fits, back


class LayeredStage(Stage):
    """A node that runs one layer at a time, so that requests which skip layers join the others at their first."""

    def __init__(self, index: int, setup: StageSetup, options: Options, activation_bytes: float) -> None:
        super().__init__(index, setup, options, activation_bytes)
        self.layer = 0
        self._decodes: list[list[Run]] = [[] for _ in range(self.width)]
        self._prompts: list[list[Run]] = [[] for _ in range(self.width)]

    def queue(self, run: Run) -> None:
        self._queue_at(run.link.skipped, run)

    def _queue_at(self, layer: int, run: Run) -> None:
        (self._decodes if run.piece is None else self._prompts)[layer].append(run)

    def queues(self) -> list[list[Run]]:
        return [*self._decodes, *self._prompts]

    def entered(self, run: Run) -> bool:
        return any(
            run in queue[layer]
            for queue in (self._decodes, self._prompts)
            for layer in range(self.width)
            if layer > run.link.skipped
        )

    def waiting(self, now: float) -> int:
        queued = sum(len(run.steps) for runs in self._decodes for run in runs) + sum(map(len, self._prompts))
        return queued + sum(len(run.steps) or 1 for run in self.inbox if run.arrive_s <= now)

    def everything(self) -> list[Run]:
        runs = [*self.inbox, *(run for queue in (*self._decodes, *self._prompts) for run in queue)]
        self.inbox = []
        self._decodes = [[] for _ in range(self.width)]
        self._prompts = [[] for _ in range(self.width)]
        return runs

    def begin(self, now: float, by_layer: bool) -> tuple[float, Sequence[Run]]:
        inbox = self.inbox
        if inbox and (self.unsorted or inbox[0].arrive_s <= now):
            self.take_arrived(now)
        layer = self.layer
        if not self._decodes[layer] and not self._prompts[layer]:
            self._march()
            layer = self.layer
            if not self._decodes[layer] and not self._prompts[layer]:
                return NEVER, ()
        decodes, steps = self._take_decodes(self._decodes[layer])
        prompts = self._take_prompts(self._prompts[layer], steps) if self._prompts[layer] else []
        batch = _merged(decodes, prompts)
        refused: list[Run] = []
        need = 0
        for run in batch:
            if run.link.skipped == layer:
                need += _tokens(run) * (run.link.width if by_layer else self.width)
        if self.kv_used + need > self.kv_capacity:
            staying = [run for run in batch if run.link.skipped != layer]
            entering, refused = self._fitting([run for run in batch if run.link.skipped == layer], by_layer)
            batch = _merged(staying, entering)
            steps = sum(len(run.steps) for run in batch)
            if not batch:
                return NEVER, refused
        else:
            self._fill(need)
        seconds = self._layer_s(steps, batch)
        if layer == 0:
            seconds += self.copy_s * self.received
            self.received = 0
        return self._run(now, batch, steps, seconds), refused

    def end(self) -> Sequence[Run]:
        done: Sequence[Run] = ()
        if self.layer == self.width - 1:
            done = super().end()
        else:
            for run in self.batch:
                self._queue_at(self.layer + 1, run)
            self.batch = []
            self.busy = False
        self._march()
        return done

    def _march(self) -> None:
        """To the next layer at which somebody waits, from the last back to the first."""
        for layer in (*range(self.layer + 1, self.width), *range(self.layer)):
            if self._decodes[layer] or self._prompts[layer]:
                self.layer = layer
                return
