"""What happens on a stage: what its next batch takes, how long that lasts, and what of it goes on."""

from __future__ import annotations

from helix_df.rules.batching import takes_decodes, takes_piece
from helix_df.rules.pages import more_pages
from helix_df.simulator.kernel.arrivals import take_arrived
from helix_df.simulator.kernel.hearing import BEGUN, cache_weight, place_of, slide
from helix_df.simulator.kernel.marks import inlined
from helix_df.simulator.kernel.micro import launch, room, withdraw
from helix_df.simulator.kernel.runs import add_step, copy_run, cut_run, earlier, enqueue, free_run, tokens_of
from helix_df.simulator.kernel.seconds import layer_s, mixed_s
from helix_df.simulator.kernel.tables import DECODES, NEVER, NOTHING, PROMPTS, Fixed, Rules, State

LONG_CONTEXT = 4096
"""Tokens of context that no step is taken to exceed, so that a limit on the sum need not be counted out."""


@inlined
def waits_at(s: State, r: Rules, stage: int, layer: int) -> bool:
    """Whether somebody waits at a layer of a stage."""
    at = (stage * r.layers + layer) * 2
    return s.queues[at + DECODES].first != NOTHING or s.queues[at + PROMPTS].first != NOTHING


def march(f: Fixed, s: State, r: Rules, stage: int) -> None:
    """To the next layer at which somebody waits, from the last back to the first."""
    if not f.stages[stage].layered:
        return
    width, here = f.stages[stage].width, s.stages[stage].layer
    for step in range(1, width):
        layer = (here + step) % width
        if waits_at(s, r, stage, layer):
            s.stages[stage].layer = layer
            return


def take_decodes(f: Fixed, s: State, r: Rules, stage: int, layer: int) -> int:
    """Decode steps for a batch, off the front of the queue, into ``taken``; how many runs."""
    queue, limit = s.queues[(stage * r.layers + layer) * 2 + DECODES], f.stages[stage].max_context
    run, steps, count = queue.first, 0, 0
    while run != NOTHING:
        steps += s.runs[run].steps
        s.taken[count] = run
        count += 1
        run = s.runs[run].next
    queue.first = queue.last = NOTHING
    if steps > f.stages[stage].max_batch or r.micro_batches:
        count, steps = take_some(f, s, r, stage, layer, count)
    if limit != NOTHING and steps * LONG_CONTEXT > limit:
        count = within_context(f, s, r, stage, layer, count)
    return count


def take_some(f: Fixed, s: State, r: Rules, stage: int, layer: int, size: int) -> tuple[int, int]:
    """Of ``size`` runs at most a full batch, and of those that enter here as many as there is room for."""
    left = f.stages[stage].max_batch
    share = room(f, s, stage) if r.micro_batches else left
    count, batch = 0, NOTHING
    for index in range(size):
        run = s.taken[index]
        enters = f.links[s.runs[run].link].tail == NOTHING
        fits = takes_decodes(s.runs[run].steps, left, share, enters)
        if fits < s.runs[run].steps:
            enqueue(s, r, stage, layer, cut_run(s, run, fits) if fits else run)
        if fits:
            s.taken[count] = run
            count += 1
            left -= fits
            if enters and r.micro_batches:
                share -= fits
                if batch == NOTHING:
                    batch = launch(s, stage)
                join_batch(s, run, batch)
    return count, f.stages[stage].max_batch - left


def join_batch(s: State, run: int, batch: int) -> None:
    """The steps of a run enter their pipelines in a micro-batch."""
    attempt = s.runs[run].first
    for _ in range(s.runs[run].steps):
        s.attempts[attempt].batch = batch
        attempt = s.attempts[attempt].step_next
    s.batches[batch].members += s.runs[run].steps


def within_context(f: Fixed, s: State, r: Rules, stage: int, layer: int, count: int) -> int:
    """Of the taken runs the steps whose context together stays within the limit; the others wait at the front."""
    limit, context, kept, front, last = f.stages[stage].max_context, 0, 0, NOTHING, NOTHING
    for index in range(count):
        run = s.taken[index]
        rest = copy_run(s, run)
        attempt, steps = s.runs[run].first, s.runs[run].steps
        s.runs[run].steps = 0
        for _ in range(steps):
            after = s.attempts[attempt].step_next
            if context + s.attempts[attempt].confirmed <= limit:
                context += s.attempts[attempt].confirmed
                add_step(s, run, attempt)
            else:
                withdraw(s, attempt)
                add_step(s, rest, attempt)
            attempt = after
        if s.runs[run].steps:
            s.taken[kept] = run
            kept += 1
        else:
            free_run(s, run)
        if s.runs[rest].steps == 0:
            free_run(s, rest)
            continue
        if front == NOTHING:
            front = rest
        else:
            s.runs[last].next = rest
        last = rest
    if front != NOTHING:
        queue = s.queues[(stage * r.layers + layer) * 2 + DECODES]
        s.runs[last].next = queue.first
        if queue.first == NOTHING:
            queue.last = last
        queue.first = front
    return kept


def take_prompts(f: Fixed, s: State, r: Rules, stage: int, layer: int, count: int) -> int:
    """Prompts for a batch of the ``count`` taken runs, off the front of the queue; how many runs with them."""
    queue, most = s.queues[(stage * r.layers + layer) * 2 + PROMPTS], f.stages[stage].max_prompts
    run = queue.first
    if run == NOTHING:
        return count
    first, decodes, prompts = count, steps_taken(s, count), 0
    if r.decode_first:
        most = min(most, f.stages[stage].max_batch - decodes)
    while run != NOTHING:
        tokens, again = s.runs[run].tokens, has_piece(s, first, count, s.runs[run].first)
        if not takes_piece(tokens, again, most, decodes, prompts, f.stages[stage].prefill_budget):
            break
        prompts += tokens
        most -= 1
        s.taken[count] = run
        count += 1
        run = s.runs[run].next
    queue.first = run
    if run == NOTHING:
        queue.last = NOTHING
    return count


def has_piece(s: State, start: int, stop: int, attempt: int) -> bool:
    """Whether a piece of an attempt is among the taken runs from ``start`` to ``stop``."""
    found = False
    for index in range(start, stop):
        found = found or s.runs[s.taken[index]].first == attempt
    return found


def steps_taken(s: State, count: int) -> int:
    """Decode steps of the taken runs."""
    steps = 0
    for index in range(count):
        if not s.runs[s.taken[index]].refused:
            steps += s.runs[s.taken[index]].steps
    return steps


def sort_taken(s: State, count: int) -> None:
    """In the order they arrived; they are nearly so already."""
    for index in range(1, count):
        run, here = s.taken[index], index
        while here > 0 and earlier(s, run, s.taken[here - 1]):
            s.taken[here] = s.taken[here - 1]
            here -= 1
        s.taken[here] = run


@inlined
def cache_of(f: Fixed, s: State, r: Rules, stage: int, run: int) -> int:
    """KV cache, in tokens times layers, that a run takes on a stage."""
    row = f.stages[stage]
    if r.by_layer and (row.mixed or row.layered):
        return tokens_of(s, run) * f.links[s.runs[run].link].run_layers
    return tokens_of(s, run) * row.width


@inlined
def enters_at(f: Fixed, s: State, stage: int, layer: int, run: int) -> bool:
    """Whether a run begins on a stage at a layer, so that its tokens aren't in the cache yet."""
    return not f.stages[stage].layered or f.links[s.runs[run].link].skipped == layer


def fit(f: Fixed, s: State, r: Rules, stage: int, layer: int, count: int, need: int) -> tuple[int, int]:
    """Give up the last steps that enter the stage until its KV cache has room for them all, ``need``.

    Runs that are left, and how many are refused.
    """
    row, refused, index = s.stages[stage], 0, count - 1
    while need > 0 and row.kv_used + need > f.stages[stage].capacity:
        run = s.taken[index]
        if not enters_at(f, s, stage, layer, run):
            index -= 1
            continue
        if s.runs[run].tokens == 0 and s.runs[run].steps > 1:
            run = cut_run(s, run, s.runs[run].steps - 1)
        else:
            for other in range(index, count - 1):
                s.taken[other] = s.taken[other + 1]
            count -= 1
            index -= 1
        s.refused[refused] = run
        refused += 1
        need -= cache_of(f, s, r, stage, run)
    fill(s, stage, need)
    if f.stages[stage].layered and need > 0:
        sort_taken(s, count)
    return count, refused


def fill(s: State, stage: int, need: int) -> None:
    """Tokens take cache."""
    row = s.stages[stage]
    row.kv_used += need
    if row.kv_used > row.kv_peak:
        row.kv_peak = row.kv_used


def begin_batch(f: Fixed, s: State, r: Rules, stage: int) -> tuple[float, int]:
    """Start the next batch if something waits; when it ends, and how many runs didn't fit."""
    now_s, row = s.counts[0].now_s, s.stages[stage]
    if row.inbox_first != NOTHING and s.runs[row.inbox_first].arrive_s <= now_s:
        take_arrived(f, s, r, stage)
    if not waits_at(s, r, stage, row.layer):
        march(f, s, r, stage)
        if not waits_at(s, r, stage, row.layer):
            return NEVER, 0
    layer = row.layer
    decodes = take_decodes(f, s, r, stage, layer)
    count = take_prompts(f, s, r, stage, layer, decodes)
    if 0 < decodes < count and not r.messages:
        sort_taken(s, count)
    if count == 0:
        return NEVER, 0
    if r.messages:
        return run_batch(f, s, r, stage, fill_cache(f, s, r, stage, count)), 0
    need, refused = 0, 0
    for index in range(count):
        if enters_at(f, s, stage, layer, s.taken[index]):
            need += cache_of(f, s, r, stage, s.taken[index])
    if row.kv_used + need > f.stages[stage].capacity:
        count, refused = fit(f, s, r, stage, layer, count, need)
        if count == 0:
            return NEVER, refused
    else:
        fill(s, stage, need)
    return run_batch(f, s, r, stage, count), refused


def fill_cache(f: Fixed, s: State, r: Rules, stage: int, count: int) -> int:
    """Let the taken runs take cache one after the other, and mark those that find none; how many runs they are then."""
    runs = 0
    for index in range(count):
        run = s.taken[index]
        row = s.runs[run]
        if row.tokens:
            row.refused = not piece_fits(f, s, r, stage, run)
        else:
            while True:
                rest = fill_steps(f, s, r, stage, run)
                if rest == NOTHING:
                    break
                s.refused[runs] = run
                runs += 1
                run = rest
        s.refused[runs] = run
        runs += 1
    for index in range(runs):
        s.taken[index] = s.refused[index]
    return runs


def fill_steps(f: Fixed, s: State, r: Rules, stage: int, run: int) -> int:
    """Let steps of a run take cache, as far as all do or none does; a run of the others, or ``NOTHING``."""
    attempt, refused = s.runs[run].first, False
    for step in range(s.runs[run].steps):
        row = s.attempts[attempt]
        if f.stages[stage].windowed:
            slide(f, s, r, stage, attempt, row.confirmed)
        need = step_weight(s, r, attempt) if row.pages and r.drafts == 0 else 0
        fits = need == 0 or s.stages[stage].kv_used + need <= f.stages[stage].capacity
        if r.drafts:
            fits = drafted_fits(f, s, r, stage, attempt)
        if step and fits == refused:
            s.runs[run].refused = refused
            return cut_run(s, run, step)
        refused = not fits
        if fits:
            row.stepped += 1
            if need:
                fill(s, stage, need)
        attempt = row.step_next
    s.runs[run].refused = refused
    return NOTHING


def drafted_fits(f: Fixed, s: State, r: Rules, stage: int, attempt: int) -> bool:
    """Let a step take cache on a stage for its drafts, too, or else for its own token; whether there is any for it.

    Pages of drafts that were wrong stay, and the tokens that come are written over them.
    """
    row, at = s.attempts[attempt], place_of(s, r, attempt, stage)
    held = s.holds[at] - BEGUN
    for _ in range(2):
        stop = row.confirmed + 1 + row.drafts
        need = more_pages(held, stop, r.page_tokens) * cache_weight(s, r, attempt, stage) if stop > held else 0
        if need == 0 or s.stages[stage].kv_used + need <= f.stages[stage].capacity:
            fill(s, stage, need)
            s.holds[at] = BEGUN + max(held, stop)
            return True
        if row.drafts == 0:
            return False
        row.drafts = 0
    return False


@inlined
def step_weight(s: State, r: Rules, attempt: int) -> int:
    """Cache, in tokens times layers, that a page takes where the decode step of an attempt is now."""
    row = s.attempts[attempt]
    return s.hops[row.path * r.vertices + row.stepped].weight * r.page_tokens


def piece_fits(f: Fixed, s: State, r: Rules, stage: int, run: int) -> bool:
    """Let a piece of a prompt take cache on a stage, if there is any for it."""
    row = s.runs[run]
    if f.stages[stage].windowed:
        slide(f, s, r, stage, row.first, row.start)
    pages = more_pages(row.start, row.start + row.tokens, r.page_tokens)
    need = pages * cache_weight(s, r, row.first, stage) if pages else 0
    if need and s.stages[stage].kv_used + need > f.stages[stage].capacity:
        return False
    fill(s, stage, need)
    s.holds[place_of(s, r, row.first, stage)] = BEGUN + row.start + row.tokens
    return True


def run_batch(f: Fixed, s: State, r: Rules, stage: int, count: int) -> float:
    """The taken runs are the batch now; when it ends."""
    row = s.stages[stage]
    if f.stages[stage].layered:
        seconds = layer_s(f, s, r, stage, count, 0)
    elif f.stages[stage].mixed:
        seconds = mixed_s(f, s, r, stage, count)
    else:
        seconds = f.stages[stage].width * layer_s(f, s, r, stage, count, 0)
    if row.layer == 0:
        seconds += r.copy_s * row.received
        row.received = 0
    for index in range(count):
        s.runs[s.taken[index]].next = s.taken[index + 1] if index + 1 < count else NOTHING
    row.batch_first = s.taken[0]
    row.batch_steps = steps_taken(s, count)
    row.batch_number += 1
    row.busy = True
    row.busy_s += seconds
    row.busy_until_s = s.counts[0].now_s + seconds
    return row.busy_until_s


def end_batch(f: Fixed, s: State, r: Rules, stage: int) -> int:
    """End the batch; the chain of what has been through all layers."""
    row = s.stages[stage]
    run, row.batch_first, row.busy = row.batch_first, NOTHING, False
    if f.stages[stage].layered and row.layer < f.stages[stage].width - 1:
        while run != NOTHING:
            after = s.runs[run].next
            enqueue(s, r, stage, row.layer + 1, run)
            run = after
    else:
        count_done(s, stage, run)
    march(f, s, r, stage)
    return run


def count_done(s: State, stage: int, run: int) -> None:
    """A batch has been through a stage."""
    row = s.stages[stage]
    if row.batch_steps:
        row.decode_batches += 1
        row.decode_steps += row.batch_steps
    while run != NOTHING:
        if not s.runs[run].refused:
            row.prompt_tokens += s.runs[run].tokens
        run = s.runs[run].next
