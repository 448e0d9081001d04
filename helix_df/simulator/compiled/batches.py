"""What happens on a stage: the rules of ``simulator.stage``."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

from helix_df.simulator.compiled.entrance import back, first_stage, launch, room
from helix_df.simulator.compiled.jit import compiled, inlined
from helix_df.simulator.compiled.plant import NEVER, NOTHING
from helix_df.simulator.compiled.runs import (
    add_step,
    copy_run,
    cut_run,
    earlier,
    enqueue,
    free_run,
    put_in_inbox,
    tokens_of,
)
from helix_df.simulator.compiled.seconds import layer_s, mixed_s
from helix_df.simulator.compiled.state import DECODES, PROMPTS
from helix_df.simulator.stage import LONG_CONTEXT


@compiled
def take_arrived(p, s, r, stage):
    """Move what has arrived into the queues."""
    now, later = s.now[0], NOTHING
    run = s.stages[stage].inbox_first
    while run != NOTHING and s.runs[run].arrive_s <= now:
        after = s.runs[run].next
        s.stages[stage].inbox_first = after
        if s.runs[run].tokens:
            s.stages[stage].received += s.runs[run].tokens
        else:
            steps, arrive, apart = s.runs[run].steps, s.runs[run].arrive_s, s.runs[run].apart_s
            if apart > 0.0 and steps > 1 and arrive + apart * (steps - 1) > now:
                here = int((now - arrive) / apart) + 1
                if here < steps:
                    rest = cut_run(s, run, here)
                    s.runs[rest].arrive_s = arrive + here * apart
                    s.runs[rest].next = later
                    later = rest
            s.stages[stage].received += s.runs[run].steps
            if r.micro_batches:
                attempt = s.runs[run].first
                for _ in range(s.runs[run].steps):
                    if first_stage(p, s, attempt) == stage:
                        back(s, attempt, stage)
                    attempt = s.tries[attempt].step_next
        enqueue(s, stage, p.links[s.runs[run].link].skipped if p.stages[stage].layered else 0, run)
        run = after
    if s.stages[stage].inbox_first == NOTHING:
        s.stages[stage].inbox_last = NOTHING
    else:
        s.runs[s.stages[stage].inbox_first].before = NOTHING
    while later != NOTHING:
        after = s.runs[later].next
        put_in_inbox(s, stage, later)
        later = after


@inlined
def waits_at(s, stage, layer):
    """Whether somebody waits at a layer of a stage."""
    return s.queue_first[stage, layer, DECODES] != NOTHING or s.queue_first[stage, layer, PROMPTS] != NOTHING


@inlined
def march(p, s, stage):
    """To the next layer at which somebody waits, from the last back to the first."""
    if not p.stages[stage].layered:
        return
    width, here = p.stages[stage].width, s.stages[stage].layer
    for step in range(1, width):
        layer = (here + step) % width
        if waits_at(s, stage, layer):
            s.stages[stage].layer = layer
            return


@inlined
def take_decodes(p, s, r, stage, layer):
    """Decode steps for a batch, off the front of the queue, into ``taken``; how many runs."""
    run = s.queue_first[stage, layer, DECODES]
    steps, count, size = 0, 0, 0
    while run != NOTHING:
        steps += s.runs[run].steps
        s.taken[size] = run
        size += 1
        run = s.runs[run].next
    s.queue_first[stage, layer, DECODES] = s.queue_last[stage, layer, DECODES] = NOTHING
    if steps <= p.stages[stage].max_batch and not r.micro_batches:
        count = size
    else:
        count, steps = take_some(p, s, r, stage, layer, size)
    if p.stages[stage].max_context != NOTHING and steps * LONG_CONTEXT > p.stages[stage].max_context:
        count = within(p, s, stage, layer, count)
    return count


@compiled
def take_some(p, s, r, stage, layer, size):
    """Of ``size`` runs at most a full batch, and of those that enter here as many as there is room for."""
    left = p.stages[stage].max_batch
    share = room(p, s, stage) if r.micro_batches else left
    count = 0
    batch = 0
    for index in range(size):
        run = s.taken[index]
        enters = p.links[s.runs[run].link].tail == NOTHING
        fits = min(s.runs[run].steps, left, share if enters else left)
        if fits < s.runs[run].steps:
            rest = run
            if fits:
                rest = cut_run(s, run, fits)
            enqueue(s, stage, layer, rest)
        if fits:
            s.taken[count] = run
            count += 1
            left -= fits
            if enters and r.micro_batches:
                share -= fits
                if batch == 0:
                    batch = launch(s, stage)
                attempt = s.runs[run].first
                for _ in range(fits):
                    s.tries[attempt].batch_of = batch
                    attempt = s.tries[attempt].step_next
    return count, p.stages[stage].max_batch - left


@compiled
def within(p, s, stage, layer, count):
    """Of the taken runs the steps whose context together stays within the limit; the others wait at the front."""
    limit, context, kept, back_, last_back = p.stages[stage].max_context, 0, 0, NOTHING, NOTHING
    for index in range(count):
        run = s.taken[index]
        attempt, steps = s.runs[run].first, s.runs[run].steps
        rest = copy_run(s, run)
        s.runs[run].steps = s.runs[rest].steps = 0
        for _ in range(steps):
            after = s.tries[attempt].step_next
            if context + s.tries[attempt].confirmed <= limit:
                context += s.tries[attempt].confirmed
                add_step(s, run, attempt)
            else:
                add_step(s, rest, attempt)
            attempt = after
        if s.runs[run].steps:
            s.taken[kept] = run
            kept += 1
        else:
            free_run(s, run)
        if s.runs[rest].steps == 0:
            free_run(s, rest)
        elif back_ == NOTHING:
            back_ = last_back = rest
        else:
            s.runs[last_back].next = rest
            last_back = rest
    if back_ != NOTHING:
        s.runs[last_back].next = s.queue_first[stage, layer, DECODES]
        if s.runs[last_back].next == NOTHING:
            s.queue_last[stage, layer, DECODES] = last_back
        s.queue_first[stage, layer, DECODES] = back_
    return kept


@inlined
def take_prompts(p, s, r, stage, layer, count):
    """Prompts for a batch of the ``count`` taken runs, off the front of the queue; how many runs with them."""
    most = p.stages[stage].max_prompts
    if r.decode_first:
        steps = 0
        for index in range(count):
            steps += s.runs[s.taken[index]].steps
        most = min(most, p.stages[stage].max_batch - steps)
    budget = r.prefill_budget
    run = s.queue_first[stage, layer, PROMPTS]
    while run != NOTHING and most > 0 and (s.runs[run].tokens <= budget or budget == r.prefill_budget):
        budget -= s.runs[run].tokens
        most -= 1
        s.taken[count] = run
        count += 1
        run = s.runs[run].next
    s.queue_first[stage, layer, PROMPTS] = run
    if run == NOTHING:
        s.queue_last[stage, layer, PROMPTS] = NOTHING
    return count


@compiled
def sort_taken(s, count):
    """In the order they arrived; they are nearly so already."""
    for index in range(1, count):
        run, here = s.taken[index], index
        while here > 0 and earlier(s, run, s.taken[here - 1]):
            s.taken[here] = s.taken[here - 1]
            here -= 1
        s.taken[here] = run


@inlined
def cache_s(p, s, r, stage, run):
    """KV cache, in tokens times layers, that a run takes on a stage."""
    if r.by_layer and (p.stages[stage].mixed or p.stages[stage].layered):
        return tokens_of(s, run) * p.links[s.runs[run].link].run_layers
    return tokens_of(s, run) * p.stages[stage].width


@compiled
def fit(p, s, r, stage, layer, count):
    """Give up the last steps that enter the stage until its KV cache has room; runs left, and how many are refused."""
    entering, total, refused = 0, 0, 0
    for index in range(count):
        run = s.taken[index]
        if not p.stages[stage].layered or p.links[s.runs[run].link].skipped == layer:
            entering += 1
            total += cache_s(p, s, r, stage, run)
    index = count - 1
    while entering and s.stages[stage].kv_used + total > p.stages[stage].capacity:
        run = s.taken[index]
        if p.stages[stage].layered and p.links[s.runs[run].link].skipped != layer:
            index -= 1
            continue
        if s.runs[run].tokens == 0 and s.runs[run].steps > 1:
            run = cut_run(s, run, s.runs[run].steps - 1)
        else:
            for other in range(index, count - 1):
                s.taken[other] = s.taken[other + 1]
            count -= 1
            entering -= 1
            index -= 1
        s.refused[refused] = run
        refused += 1
        total -= cache_s(p, s, r, stage, run)
    s.stages[stage].kv_used += total
    if p.stages[stage].layered and 0 < entering < count:
        sort_taken(s, count)
    return count, refused


@inlined
def begin_batch(p, s, r, stage):
    """Start the next batch if something waits; when it ends, and how many runs didn't fit."""
    now = s.now[0]
    if s.stages[stage].inbox_first != NOTHING and s.runs[s.stages[stage].inbox_first].arrive_s <= now:
        take_arrived(p, s, r, stage)
    if not waits_at(s, stage, s.stages[stage].layer):
        march(p, s, stage)
        if not waits_at(s, stage, s.stages[stage].layer):
            return NEVER, 0
    layer = s.stages[stage].layer
    decodes = take_decodes(p, s, r, stage, layer)
    count = take_prompts(p, s, r, stage, layer, decodes)
    if 0 < decodes < count:
        sort_taken(s, count)
    if count == 0:
        return NEVER, 0
    need = 0
    for index in range(count):
        run = s.taken[index]
        if not p.stages[stage].layered or p.links[s.runs[run].link].skipped == layer:
            need += cache_s(p, s, r, stage, run)
    refused = 0
    if s.stages[stage].kv_used + need > p.stages[stage].capacity:
        count, refused = fit(p, s, r, stage, layer, count)
        if count == 0:
            return NEVER, refused
    else:
        s.stages[stage].kv_used += need
    if p.stages[stage].layered:
        seconds = layer_s(p, s, r, stage, count, 0)
    elif p.stages[stage].mixed:
        seconds = mixed_s(p, s, r, stage, count)
    else:
        seconds = p.stages[stage].width * layer_s(p, s, r, stage, count, 0)
    if layer == 0:
        seconds += r.copy_s * s.stages[stage].received
        s.stages[stage].received = 0
    for index in range(count):
        s.runs[s.taken[index]].next = s.taken[index + 1] if index + 1 < count else NOTHING
    s.stages[stage].batch_first = s.taken[0]
    s.stages[stage].batch_number += 1
    s.stages[stage].busy = True
    return now + seconds, refused


@inlined
def end_batch(p, s, stage):
    """End the batch; the chain of what has been through all layers."""
    run = s.stages[stage].batch_first
    s.stages[stage].batch_first = NOTHING
    s.stages[stage].busy = False
    if p.stages[stage].layered:
        if s.stages[stage].layer < p.stages[stage].width - 1:
            while run != NOTHING:
                after = s.runs[run].next
                enqueue(s, stage, s.stages[stage].layer + 1, run)
                run = after
        march(p, s, stage)
    return run
