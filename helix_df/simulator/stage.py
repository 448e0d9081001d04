"""A stage: its queues, its batches, the seconds they take and the KV cache they fill.

Owns what happens on one node. Doesn't know where requests come from, and leaves sending to whoever drives it.
"""

from __future__ import annotations

from operator import itemgetter

from helix_df.simulator.options import Options
from helix_df.simulator.parts import Attempt, Link, Nic, Run
from helix_df.simulator.setup import StageSetup

NEVER = float("inf")
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
        self.up_since_s = 0.0
        self.inbox: list[Run] = []
        self.unsorted = False
        self.decodes: list[Run] = []
        self.prompts: list[Run] = []
        self.batch: list[Run] = []
        self.batch_number = 0
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

    def next_batch(self) -> list[Run]:
        """Take the next batch out of the queues, in the order things came."""
        decodes = self._take_decodes()
        room = self.max_batch - sum(len(run.steps) for run in decodes) if self.decode_first else self.max_prompts
        prompts = self._take_prompts(min(room, self.max_prompts))
        if decodes and prompts:
            return sorted([*decodes, *prompts], key=_BY_ARRIVAL)
        return decodes or prompts

    def _take_decodes(self) -> list[Run]:
        room = self.max_batch
        taken: list[Run] = []
        queue = self.decodes
        for at, run in enumerate(queue):
            size = len(run.steps)
            if size > room:
                if room > 0:
                    taken.append(run._replace(steps=run.steps[:room]))
                    queue[at] = run._replace(steps=run.steps[room:])
                del queue[:at]
                return self._within_context(taken)
            taken.append(run)
            room -= size
        queue.clear()
        return self._within_context(taken)

    def _within_context(self, taken: list[Run]) -> list[Run]:
        """As many of the runs as stay within the batch's limit on context; the others go back."""
        if self.max_context is None or sum(len(run.steps) for run in taken) * 4096 <= self.max_context:
            return taken
        context = 0
        fits: list[Run] = []
        back: list[Run] = []
        for run in taken:
            inside: list[Attempt] = []
            outside: list[Attempt] = []
            for attempt in run.steps:
                if context + attempt.confirmed <= self.max_context:
                    context += attempt.confirmed
                    inside.append(attempt)
                else:
                    outside.append(attempt)
            if inside:
                fits.append(run._replace(steps=inside) if outside else run)
            if outside:
                back.append(run._replace(steps=outside))
        self.decodes[:0] = back
        return fits

    def _take_prompts(self, most: int) -> list[Run]:
        budget = self.prefill_budget
        count = 0
        for run in self.prompts:
            assert run.piece is not None
            if count >= most or (run.piece.tokens > budget and budget < self.prefill_budget):
                break
            budget -= run.piece.tokens
            count += 1
        taken = self.prompts[:count]
        del self.prompts[:count]
        return taken

    def batch_s(self, batch: list[Run]) -> float:
        """Seconds the batch takes."""
        copied = self.copy_s * self.received
        self.received = 0
        if not self.mixed:
            steps = sum(len(run.steps) for run in batch)
            prompts = [run.piece.tokens for run in batch if run.piece is not None]
            return self.width * self._layer_s(steps, prompts) + copied
        # Decode steps of the same layers run together, whatever skips layers runs on its own.
        by_width: dict[int, tuple[list[int], list[int]]] = {}
        for run in batch:
            steps_of, prompts_of = by_width.setdefault(run.link.width, ([], []))
            if run.piece is None:
                steps_of.append(len(run.steps))
            else:
                prompts_of.append(run.piece.tokens)
        return copied + sum(width * self._layer_s(sum(steps), prompts) for width, (steps, prompts) in by_width.items())

    def _layer_s(self, steps: int, prompts: list[int]) -> float:
        seconds = 0.0
        if steps:
            decode = self._decode_s.get(steps)
            if decode is None:
                decode = self._decode_s[steps] = self.timing.decode_s(steps)
            seconds = decode
        if prompts:
            for tokens in [sum(prompts)] if self.merge_prefills else prompts:
                prefill = self._prefill_s.get(tokens)
                if prefill is None:
                    prefill = self._prefill_s[tokens] = self.timing.prefill_s(tokens)
                seconds += prefill
        return seconds

    def fill_kv(self, batch: list[Run], by_layer: bool) -> list[Run]:
        """Count the batch's new tokens in the KV cache; what doesn't fit is taken out of the batch and returned."""
        refused: list[Run] = []
        need = self._kv_need(batch, by_layer)
        while batch and self.kv_used + need > self.kv_capacity:
            run = batch.pop()
            kept, last = run.steps[:-1], run.steps[-1:]
            refused.append(run._replace(steps=last))
            if kept:
                batch.append(run._replace(steps=kept))
            need = self._kv_need(batch, by_layer)
        self.kv_used += need
        self.kv_peak = max(self.kv_peak, self.kv_used)
        return refused

    def _kv_need(self, batch: list[Run], by_layer: bool) -> int:
        if by_layer and self.mixed:
            return sum((run.piece.tokens if run.piece else len(run.steps)) * run.link.width for run in batch)
        return self.width * sum(run.piece.tokens if run.piece else len(run.steps) for run in batch)

    def begin(self, now: float, by_layer: bool) -> tuple[float, list[Run]]:
        """Start the next batch if something waits; when it ends (``NEVER``: nothing to do) and what didn't fit."""
        self.take_arrived(now)
        if not self.decodes and not self.prompts:
            return NEVER, []
        batch = self.next_batch()
        refused = self.fill_kv(batch, by_layer)
        if not batch:
            return NEVER, refused
        return self._run(now, batch, self.batch_s(batch)), refused

    def _run(self, now: float, batch: list[Run], seconds: float) -> float:
        self.batch = batch
        self.batch_number += 1
        self.busy = True
        self.busy_s += seconds
        self.batches += 1
        self.busy_until_s = now + seconds
        return self.busy_until_s

    def end(self) -> list[Run]:
        """End the batch; what of it has been through all layers."""
        batch, self.batch = self.batch, []
        self.busy = False
        steps = 0
        for run in batch:
            if run.piece is None:
                steps += len(run.steps)
            else:
                self.prompt_tokens += run.piece.tokens
        if steps:
            self.decode_batches += 1
            self.decode_steps += steps
        return batch


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

    def begin(self, now: float, by_layer: bool) -> tuple[float, list[Run]]:
        self.take_arrived(now)
        if not self._any(self.layer):
            self._march()
        if not self._any(self.layer):
            return NEVER, []
        self.decodes, self.prompts = self._decodes[self.layer], self._prompts[self.layer]
        batch = self.next_batch()
        self.decodes, self.prompts = [], []
        entering = [run for run in batch if run.link.skipped == self.layer]
        staying = [run for run in batch if run.link.skipped != self.layer]
        refused = self.fill_kv(entering, by_layer)
        batch = sorted([*staying, *entering], key=_BY_ARRIVAL) if refused else batch
        if not batch:
            return NEVER, refused
        seconds = self._layer_s(
            sum(len(run.steps) for run in batch), [run.piece.tokens for run in batch if run.piece is not None]
        )
        if self.layer == 0:
            seconds += self.copy_s * self.received
            self.received = 0
        return self._run(now, batch, seconds), refused

    def end(self) -> list[Run]:
        if self.layer == self.width - 1:
            done = super().end()
        else:
            done = []
            batch, self.batch = self.batch, []
            self.busy = False
            for run in batch:
                self._queue_at(self.layer + 1, run)
        self._march()
        return done

    def _any(self, layer: int) -> bool:
        return bool(self._decodes[layer] or self._prompts[layer])

    def _march(self) -> None:
        """To the next layer at which somebody waits, from the last back to the first."""
        for step in range(1, self.width):
            layer = (self.layer + step) % self.width
            if self._any(layer):
                self.layer = layer
                return
