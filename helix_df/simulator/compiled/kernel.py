"""The event loop of ``simulator.world`` and ``simulator.stage``, compiled.

Event for event and in the same arithmetic, so that a compiled simulation generates the same tokens at the same times;
``tests/simulator/test_compiled.py`` holds it to that. What the rules mean is said there and not again here. Fails
(``FULL``) where a simulation outgrows its arrays.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

from helix_df.simulator.compiled.plant import NEVER, NOTHING, Plant, Rules
from helix_df.simulator.compiled.state import (
    ACTIVE,
    ATTEMPT,
    BATCH,
    BRANCH,
    DEAD,
    DECODED,
    DRAWN,
    EVENT,
    FIRST_WAITING,
    FREE,
    FULL,
    GAP,
    GAPS,
    KIND,
    KINDS,
    ORDER,
    PATH,
    PENDING,
    PROMPTED,
    REJECTED,
    REQUEST,
    RUN,
    UNDER_WAY,
    WAITING,
    State,
)
from helix_df.simulator.stage import LONG_CONTEXT
from helix_df.simulator.world import MOST_ATTEMPTS

ARRIVAL, FEED, OPEN, WAKE, BATCH_END, PREFILLED, HOME, END = range(8)
DECODES, PROMPTS = 0, 1
STEPS_A_HOME = GAPS // 2
ROUNDING = 1e-9

_OPTIONS = {"cache": True, "nogil": True, "_nrt": False, "error_model": "numpy"}
compiled: Any = numba.njit(**_OPTIONS)
inlined: Any = numba.njit(**_OPTIONS, forceinline=True)
"""Passing all those arrays takes longer than what most of these do."""


# ---------------------------------------------------------------------- events


@compiled
def at(s, time_s, kind, what, number):
    """An event; those of the same time keep their order."""
    s.count[ORDER] += 1
    order, here = s.count[ORDER], s.count[EVENT]
    if here >= len(s.events):
        s.count[FULL] = 1
        return
    s.count[EVENT] += 1
    while here > 0:
        above = (here - 1) >> 1
        if s.events[above].time_s <= time_s:
            break
        _move_event(s, above, here)
        here = above
    s.events[here].time_s, s.events[here].order, s.events[here].kind = time_s, order, kind
    s.events[here].what, s.events[here].number = what, number


@inlined
def _move_event(s, here, there):
    s.events[there].time_s, s.events[there].order = s.events[here].time_s, s.events[here].order
    s.events[there].kind, s.events[there].what = s.events[here].kind, s.events[here].what
    s.events[there].number = s.events[here].number


@inlined
def _later(s, one, other):
    if s.events[one].time_s != s.events[other].time_s:
        return s.events[one].time_s > s.events[other].time_s
    return s.events[one].order > s.events[other].order


@inlined
def pop(s):
    """Take the first event off the heap."""
    s.count[EVENT] -= 1
    last = s.count[EVENT]
    here = 0
    while True:
        below = 2 * here + 1
        if below >= last:
            break
        if below + 1 < last and _later(s, below, below + 1):
            below += 1
        if not _later(s, last, below):
            break
        _move_event(s, below, here)
        here = below
    _move_event(s, last, here)


# ---------------------------------------------------------------------- runs and their steps


@inlined
def new_run(s):
    """A run that nobody uses."""
    run = s.count[FREE]
    if run != NOTHING:
        s.count[FREE] = s.runs[run].next
    else:
        run = s.count[RUN]
        if run + 1 >= len(s.runs):
            s.count[FULL] = 1
            return 0
        s.count[RUN] += 1
    s.runs[run].next = NOTHING
    s.runs[run].tokens = 0
    s.runs[run].ends = False
    return run


@inlined
def free_run(s, run):
    s.runs[run].next = s.count[FREE]
    s.count[FREE] = run


@compiled
def copy_run(s, run):
    """Another run that arrived like this one."""
    other = new_run(s)
    s.runs[other].arrive_s, s.runs[other].order, s.runs[other].link = s.runs[run].arrive_s, s.runs[run].order, s.runs[run].link
    s.runs[other].apart_s = s.runs[run].apart_s
    return other


@compiled
def cut_run(s, run, steps):
    """Leave a run its first ``steps`` steps; the run of the others."""
    rest = copy_run(s, run)
    last = s.runs[run].first
    for _ in range(steps - 1):
        last = s.tries[last].step_next
    s.runs[rest].first, s.runs[rest].last = s.tries[last].step_next, s.runs[run].last
    s.runs[rest].steps = s.runs[run].steps - steps
    s.runs[run].last, s.runs[run].steps = last, steps
    s.tries[last].step_next = NOTHING
    return rest


@inlined
def tokens_of(s, run):
    return s.runs[run].tokens if s.runs[run].tokens else s.runs[run].steps


@inlined
def earlier(s, one, other):
    if s.runs[one].arrive_s != s.runs[other].arrive_s:
        return s.runs[one].arrive_s < s.runs[other].arrive_s
    return s.runs[one].order < s.runs[other].order


@inlined
def enqueue(s, stage, layer, run):
    """Put a run at the end of its queue."""
    kind = PROMPTS if s.runs[run].tokens else DECODES
    s.runs[run].next = NOTHING
    last = s.queue_last[stage, layer, kind]
    if last == NOTHING:
        s.queue_first[stage, layer, kind] = run
    else:
        s.runs[last].next = run
    s.queue_last[stage, layer, kind] = run


@inlined
def put_in_inbox(s, stage, run):
    """Put a run where it belongs by arrival, which is the end nearly always."""
    before = s.stages[stage].inbox_last
    while before != NOTHING and earlier(s, run, before):
        before = s.runs[before].before
    after = s.stages[stage].inbox_first if before == NOTHING else s.runs[before].next
    s.runs[run].before, s.runs[run].next = before, after
    if before == NOTHING:
        s.stages[stage].inbox_first = run
    else:
        s.runs[before].next = run
    if after == NOTHING:
        s.stages[stage].inbox_last = run
    else:
        s.runs[after].before = run


# ---------------------------------------------------------------------- micro-batches


@compiled
def back(s, attempt, stage):
    """The last step of a request has been around to the stage where it entered."""
    batch = s.tries[attempt].batch_of
    if batch == 0:
        return
    s.tries[attempt].batch_of = 0
    for at_ in range(s.stages[stage].under_ways):
        if s.under_way[stage, at_] == batch:
            s.stages[stage].under_ways -= 1
            s.under_way[stage, at_] = s.under_way[stage, s.stages[stage].under_ways]
            return


@compiled
def room(p, s, stage):
    """Requests that the next batch may take of those that enter here."""
    total, most = 0.0, 0
    for kind in range(s.count[KIND]):
        requests = s.kind_requests[stage, kind]
        if requests:
            total += requests / s.kinds[kind].shares
            most = max(most, s.kinds[kind].most)
    if most == 0:
        return 0
    share = math.ceil(total - ROUNDING)
    if share > p.stages[stage].max_batch:
        most = math.ceil(most * share / p.stages[stage].max_batch)
    return share if s.stages[stage].under_ways < most else 0


@compiled
def kind_of(s, shares, most):
    for kind in range(s.count[KIND]):
        if s.kinds[kind].shares == shares and s.kinds[kind].most == most:
            return kind
    kind = s.count[KIND]
    if kind + 1 >= KINDS:
        s.count[FULL] = 1
        return 0
    s.count[KIND] += 1
    s.kinds[kind].shares, s.kinds[kind].most = shares, most
    return kind


# ---------------------------------------------------------------------- seconds


@compiled
def interpolate(curve, points, value):
    """A curve of (x, y); beyond its end it goes on in proportion to the last point."""
    last = points - 1
    if value >= curve[last, 0]:
        return curve[last, 1] * value / curve[last, 0]
    low, high = 0, points
    while low < high:
        middle = (low + high) >> 1
        if curve[middle, 0] > value:
            high = middle
        else:
            low = middle + 1
    x0, y0, x1, y1 = curve[low - 1, 0], curve[low - 1, 1], curve[low, 0], curve[low, 1]
    return y0 + (y1 - y0) * (value - x0) / (x1 - x0)


@inlined
def decode_s(p, stage, batch):
    return interpolate(p.curves[DECODES, stage], p.stages[stage].decode_points, float(batch))


@inlined
def prefill_s(p, stage, tokens):
    return interpolate(p.curves[PROMPTS, stage], p.stages[stage].prefill_points, float(tokens))


@inlined
def layer_s(p, s, r, stage, count, width):
    """Seconds of a layer for those of the ``count`` taken runs that run ``width`` layers; all, if that is 0."""
    steps, tokens, prompts = 0, 0, 0
    for index in range(count):
        run = s.taken[index]
        if width == 0 or p.links[s.runs[run].link].run_layers == width:
            if s.runs[run].tokens:
                prompts += 1
                tokens += s.runs[run].tokens
            else:
                steps += s.runs[run].steps
    seconds = decode_s(p, stage, steps) if steps else 0.0
    if prompts == 0:
        return seconds
    if r.merge_prefills:
        return seconds + prefill_s(p, stage, tokens)
    for index in range(count):
        run = s.taken[index]
        if s.runs[run].tokens and (width == 0 or p.links[s.runs[run].link].run_layers == width):
            seconds += prefill_s(p, stage, s.runs[run].tokens)
    return seconds


@compiled
def mixed_s(p, s, r, stage, count):
    """Runs of the same layers run together."""
    total = 0.0
    for index in range(count):
        width = p.links[s.runs[s.taken[index]].link].run_layers
        first = True
        for other in range(index):
            if p.links[s.runs[s.taken[other]].link].run_layers == width:
                first = False
                break
        if first:
            total += width * layer_s(p, s, r, stage, count, width)
    return total


# ---------------------------------------------------------------------- batches


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


@compiled
def first_stage(p, s, attempt):
    return p.links[s.hops[s.tries[attempt].path, 0].link].head


@inlined
def waits_at(s, stage, layer):
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
def launch(s, stage):
    """Another batch of requests that enter here is under way; its number."""
    s.count[BATCH] += 1
    if s.stages[stage].under_ways + 1 >= UNDER_WAY:
        s.count[FULL] = 1
        return s.count[BATCH]
    s.under_way[stage, s.stages[stage].under_ways] = s.count[BATCH]
    s.stages[stage].under_ways += 1
    return s.count[BATCH]


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
def add_step(s, run, attempt):
    """Another step at the end of a run."""
    s.tries[attempt].step_next = NOTHING
    if s.runs[run].steps == 0:
        s.runs[run].first = attempt
    else:
        s.tries[s.runs[run].last].step_next = attempt
    s.runs[run].last = attempt
    s.runs[run].steps += 1


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


@inlined
def begin(p, s, r, stage):
    """Start the stage's next batch, or wait for the next arrival."""
    while True:
        if s.count[DEAD]:
            purge(p, s, r, stage)
        end_s, refused = begin_batch(p, s, r, stage)
        for index in range(refused):
            refuse(p, s, r, stage, s.refused[index])
        if end_s < NEVER:
            at(s, end_s, BATCH_END, stage, s.stages[stage].batch_number)
            return
        if refused == 0:
            break
    s.stages[stage].wake_s = NEVER
    if s.stages[stage].inbox_first != NOTHING:
        s.stages[stage].wake_s = s.runs[s.stages[stage].inbox_first].arrive_s
        at(s, s.stages[stage].wake_s, WAKE, stage, 0)


# ---------------------------------------------------------------------- links


@inlined
def carry(p, s, link, items, tokens_each, spacing_s):
    """When the first of ``items`` transfers arrives, and how far apart they do."""
    each = tokens_each * p.links[link].token_s + p.links[link].message_s
    start = s.now[0] if s.now[0] > s.free_s[link] else s.free_s[link]
    apart = each if each > spacing_s else spacing_s
    for index in range(2):
        nic = p.nics[link, index]
        if nic != NOTHING:
            share = (tokens_each * p.links[link].token_bytes + p.links[link].message_bytes) / p.nic_bytes_per_s[nic]
            start = max(start, s.nic_free_s[nic])
            apart = max(apart, share)
            s.nic_free_s[nic] = start + items * share
    s.free_s[link] = start + each + (items - 1) * apart
    return start + each + p.links[link].latency_s, apart


@compiled
def send_piece(p, s, link, attempt, tokens, ends):
    if p.links[link].head == NOTHING:
        arrive_s, _ = carry(p, s, link, 1, 1, 0.0)
        at(s, arrive_s, PREFILLED, attempt, tokens)
        return
    arrive_s, _ = carry(p, s, link, 1, tokens, 0.0)
    run = new_run(s)
    s.runs[run].first, s.runs[run].steps, s.runs[run].apart_s = attempt, 0, 0.0
    s.runs[run].tokens, s.runs[run].ends = tokens, ends
    deliver(p, s, link, run, arrive_s)


@inlined
def send_steps(p, s, r, link, first, last, steps, spacing_s):
    arrive_s, apart_s = carry(p, s, link, steps, 1, spacing_s)
    if r.bundles:
        arrive_s, apart_s = arrive_s + (steps - 1) * apart_s, 0.0
    run = new_run(s)
    s.tries[last].step_next = NOTHING
    s.runs[run].first, s.runs[run].last, s.runs[run].steps, s.runs[run].apart_s = first, last, steps, apart_s
    if p.links[link].head == NOTHING:
        at(s, arrive_s, HOME, run, 0)
    else:
        deliver(p, s, link, run, arrive_s)


@inlined
def deliver(p, s, link, run, arrive_s):
    stage = p.links[link].head
    s.count[ORDER] += 1
    s.runs[run].arrive_s, s.runs[run].order, s.runs[run].link = arrive_s, s.count[ORDER], link
    put_in_inbox(s, stage, run)
    if not s.stages[stage].busy and arrive_s < s.stages[stage].wake_s:
        s.stages[stage].wake_s = arrive_s
        at(s, arrive_s, WAKE, stage, 0)


@inlined
def send_out(p, s, r, stage, run):
    """Pass on what has been through a stage, in the batch's order; steps between two prompts go together."""
    first, last, steps = NOTHING, NOTHING, 0
    while run != NOTHING:
        after = s.runs[run].next
        if s.runs[run].tokens:
            pass_steps(p, s, r, stage, first, last, steps)
            first, last, steps = NOTHING, NOTHING, 0
            pass_piece(p, s, stage, run)
        else:
            if steps == 0:
                first = s.runs[run].first
            else:
                s.tries[last].step_next = s.runs[run].first
            last = s.runs[run].last
            steps += s.runs[run].steps
        free_run(s, run)
        run = after
    pass_steps(p, s, r, stage, first, last, steps)


@inlined
def pass_steps(p, s, r, stage, first, last, steps):
    if steps and s.count[DEAD]:
        first, last, steps = living(p, s, first, steps, stage, True)
    if steps == 0:
        return
    if p.stages[stage].only_link != NOTHING:
        send_steps(p, s, r, p.stages[stage].only_link, first, last, steps, 0.0)
        return
    send_groups(p, s, r, stage + 1, first, steps, 0.0)


@inlined
def send_groups(p, s, r, vertex, first, steps, spacing_s):
    """Send every step by the link by which its pipeline leaves a vertex."""
    groups, attempt = 0, first
    for _ in range(steps):
        after = s.tries[attempt].step_next
        link = s.leaves_by[s.tries[attempt].path, vertex]
        group = 0
        while group < groups and s.runs[s.groups[group]].link != link:
            group += 1
        if group == groups:
            s.groups[group] = new_run(s)
            s.runs[s.groups[group]].link = link
            s.runs[s.groups[group]].steps = 0
            groups += 1
        add_step(s, s.groups[group], attempt)
        attempt = after
    for group in range(groups):
        run = s.groups[group]
        first, last, steps, link = s.runs[run].first, s.runs[run].last, s.runs[run].steps, s.runs[run].link
        free_run(s, run)
        send_steps(p, s, r, link, first, last, steps, spacing_s)


@compiled
def pass_piece(p, s, stage, run):
    attempt, tokens = s.runs[run].first, s.runs[run].tokens
    if not s.tries[attempt].alive:
        drop(p, s, attempt, tokens, stage, True)
        return
    link = s.leaves_by[s.tries[attempt].path, stage + 1]
    if p.links[link].head == NOTHING and not s.runs[run].ends:
        s.tries[attempt].confirmed += tokens
        s.tries[attempt].flying -= 1
    else:
        send_piece(p, s, link, attempt, tokens, s.runs[run].ends)


# ---------------------------------------------------------------------- home


@inlined
def inside(s, r):
    return r.warmup_s <= s.now[0] <= r.end_s


@inlined
def note_gap(s, gap_s):
    s.gaps[s.count[GAP]] = gap_s
    s.count[GAP] += 1


@inlined
def spend(s, r, attempt):
    """Tell the router of a token."""
    if r.by_tokens:
        path = s.tries[attempt].path
        if s.paths[path].pending == 0:
            s.paths[s.count[PENDING]].turn = path
            s.count[PENDING] += 1
        s.paths[path].pending += 1


@compiled
def on_prefilled(p, s, r, attempt, tokens):
    if not s.tries[attempt].alive:
        drop(p, s, attempt, tokens, NOTHING, True)
        return
    now, request = s.now[0], s.tries[attempt].job
    s.tries[attempt].confirmed += tokens
    if inside(s, r):
        s.count[PROMPTED] += s.tries[attempt].prompt
    if np.isnan(s.requests[request].first_token_s):
        s.requests[request].first_token_s = s.tries[attempt].last_s = now
    if r.gives_token:
        if inside(s, r):
            s.count[DECODED] += 1
            if now > s.tries[attempt].last_s:
                note_gap(s, now - s.tries[attempt].last_s)
        s.tries[attempt].last_s = s.requests[request].last_token_s = now
        s.tries[attempt].left -= 1
        spend(s, r, attempt)
    feed_more(p, s, r, False)
    if s.tries[attempt].left == 0:
        on_end(p, s, r, attempt)
    else:
        send_steps(p, s, r, s.leaves_by[s.tries[attempt].path, 0], attempt, attempt, 1, 0.0)


@inlined
def on_home(p, s, r, run):
    """Tokens come home; whoever isn't done goes round again."""
    attempt, steps, apart_s = s.runs[run].first, s.runs[run].steps, s.runs[run].apart_s
    if s.count[DEAD]:
        attempt, _, steps = living(p, s, attempt, steps, NOTHING, True)
    time_s, counts, done = s.now[0], inside(s, r), False
    s.runs[run].steps = 0
    for _ in range(steps):
        after = s.tries[attempt].step_next
        if counts:
            note_gap(s, time_s - s.tries[attempt].last_s)
            s.count[DECODED] += 1
        s.tries[attempt].last_s = time_s
        s.tries[attempt].confirmed += 1
        s.tries[attempt].left -= 1
        spend(s, r, attempt)
        if s.tries[attempt].left:
            add_step(s, run, attempt)
        else:
            done = True
            at(s, time_s, END, attempt, 0)
        time_s += apart_s
        attempt = after
    first, steps = s.runs[run].first, s.runs[run].steps
    free_run(s, run)
    if steps:
        send_groups(p, s, r, 0, first, steps, 0.0 if done else apart_s)


@compiled
def on_end(p, s, r, attempt):
    if not s.tries[attempt].alive:
        return
    leave(p, s, r, attempt)
    s.tries[attempt].alive = False
    feed_more(p, s, r, True)
    admit(p, s, r)


@compiled
def feed_more(p, s, r, ended):
    if r.saturating and r.feeds_by_kv and fullest_layer(p, s) <= r.feed_below:
        at(s, s.now[0] + r.feed_delay_s, FEED, 0, 0)


@compiled
def fullest_layer(p, s):
    """Over all layers, the largest share of expected use in what the nodes that hold the layer have together."""
    s.layers[:, :] = 0.0
    for stage in range(len(p.stages)):
        first, width = p.stages[stage].start, p.stages[stage].width
        share, capacity = s.stages[stage].used / width, p.stages[stage].capacity // width
        for layer in range(first, first + width):
            s.layers[layer, 0] += share
            s.layers[layer, 1] += capacity
    fullest = 0.0
    for layer in range(len(s.layers)):
        if s.layers[layer, 1] > 0:
            fullest = max(fullest, s.layers[layer, 0] / s.layers[layer, 1])
    return fullest


# ---------------------------------------------------------------------- admission


@compiled
def draw(p, s, r):
    """The next request of the trace; its number."""
    request = s.count[REQUEST]
    if request + 1 >= len(s.requests):
        s.count[FULL] = 1
        return 0
    s.count[REQUEST] += 1
    s.requests[request].wanted = s.count[DRAWN] % len(p.wanted)
    s.count[DRAWN] += 1
    s.requests[request].arrived_s = s.now[0]
    s.requests[request].first_token_s = s.requests[request].last_token_s = np.nan
    return request


@compiled
def wait(s, request):
    s.waiting[(s.count[FIRST_WAITING] + s.count[WAITING]) % len(s.waiting)] = request
    s.count[WAITING] += 1


@compiled
def submit(p, s, r, request):
    if p.wanted[s.requests[request].wanted].most > r.largest or s.count[WAITING] >= r.max_queue:
        s.count[REJECTED] += 1
        return
    wait(s, request)
    admit(p, s, r)


@compiled
def next_waiting(s):
    s.count[FIRST_WAITING] = (s.count[FIRST_WAITING] + 1) % len(s.waiting)
    s.count[WAITING] -= 1


@compiled
def admit(p, s, r):
    """Start waiting requests, first come first served, for as long as pipelines have room."""
    saturate = r.saturating and not r.feeds_by_kv
    while s.count[FULL] == 0:
        if s.count[WAITING] == 0:
            if not saturate:
                return
            request = draw(p, s, r)
            if p.wanted[s.requests[request].wanted].most > r.largest:
                s.count[REJECTED] += 1
                if s.count[DRAWN] > 2 * len(p.wanted):
                    return
                continue
            wait(s, request)
        request = s.waiting[s.count[FIRST_WAITING]]
        if start(p, s, r, request):
            next_waiting(s)
        elif (r.drops and not saturate) or s.count[ACTIVE] == 0:
            next_waiting(s)
            s.count[REJECTED] += 1
        else:
            return


@inlined
def has_room(p, s, r, stage, expected, most):
    """Whether a stage admits a request; the rule of the runtime's ledger, or of the one by layers."""
    width = p.stages[stage].width
    capacity = p.stages[stage].capacity // width
    scale = width if r.by_layer else 1
    if most * scale > capacity * scale:
        return False
    return s.stages[stage].used == 0 or s.stages[stage].used + expected * scale <= r.high_water * (capacity * scale)


@inlined
def may_take(p, s, r, link, expected, most):
    return p.links[link].head == NOTHING or has_room(p, s, r, p.links[link].head, expected, most)


@compiled
def start(p, s, r, request):
    """Start a request if there is a pipeline for it."""
    wanted = s.requests[request].wanted
    tokens = p.wanted[wanted].inputs + s.requests[request].generated
    most = p.wanted[wanted].most
    expected = most if s.requests[request].cautious else min(most, max(tokens, p.wanted[wanted].inputs + p.wanted[wanted].answer))
    path = by_tokens(p, s, r, expected, most, tokens) if r.by_tokens else by_turns(p, s, r, expected, most)
    if path == NOTHING or s.count[FULL]:
        return False
    attempt = s.count[ATTEMPT]
    if attempt + 1 >= len(s.tries):
        s.count[FULL] = 1
        return False
    s.count[ATTEMPT] += 1
    s.tries[attempt].job, s.tries[attempt].path, s.tries[attempt].prompt = request, path, tokens
    s.tries[attempt].left = p.wanted[wanted].outputs - s.requests[request].generated
    s.tries[attempt].expected, s.tries[attempt].alive = expected, True
    s.tries[attempt].last_s = s.now[0]
    if s.requests[request].attempts and s.requests[request].generated:
        s.tries[attempt].last_s = s.requests[request].last_token_s
    s.requests[request].attempts += 1
    s.count[ACTIVE] += 1
    reserve(p, s, r, path, expected)
    if r.micro_batches:
        s.kind_requests[first_stage(p, s, attempt), s.paths[path].kind] += 1
    pieces = -(-tokens // r.prefill_chunk)
    s.tries[attempt].flying = pieces
    for piece in range(pieces):
        size = min(r.prefill_chunk, tokens - piece * r.prefill_chunk)
        send_piece(p, s, s.leaves_by[path, 0], attempt, size, piece == pieces - 1)
    return True


@compiled
def reserve(p, s, r, path, expected):
    """Count a request on the nodes of its pipeline; a negative number gives it back."""
    for hop in range(s.paths[path].hops):
        link = s.hops[path, hop].link
        s.stages[p.links[link].head].used += expected * (p.links[link].run_layers if r.by_layer else 1)


# ---------------------------------------------------------------------- routing


@compiled
def path_of(p, s, r, hops):
    """The pipeline of ``choice`` at the vertices of ``walk``, which ends with the way home."""
    branch = 0
    for hop in range(hops):
        after = s.branch[branch, s.choice[hop]]
        if after == 0:
            after = s.count[BRANCH]
            if after + 1 >= len(s.branch):
                s.count[FULL] = 1
                return NOTHING
            s.count[BRANCH] += 1
            s.branch[branch, s.choice[hop]] = after
        branch = after
    if s.branch_path[branch] == 0:
        path = s.count[PATH]
        if path + 1 >= len(s.paths):
            s.count[FULL] = 1
            return NOTHING
        s.count[PATH] += 1
        s.branch_path[branch] = path + 1
        new_path(p, s, r, path, hops)
    return s.branch_path[branch] - 1


@compiled
def new_path(p, s, r, path, hops):
    s.paths[path].hops = hops - 1
    total, slowest, network_s = 0.0, 0.0, 0.0
    for hop in range(hops):
        vertex = s.walk[hop]
        link = p.way[vertex, s.choice[hop]]
        s.hops[path, hop].link, s.hops[path, hop].choice, s.leaves_by[path, vertex] = link, s.choice[hop], link
        network_s += p.links[link].latency_s
        stage = p.links[link].head
        if stage != NOTHING:
            step_s = p.links[link].run_layers * decode_s(p, stage, 1)
            total, slowest = total + step_s, max(slowest, step_s)
            partly = r.by_layer and p.stages[stage].mixed
            s.hops[path, hop].weight = p.links[link].run_layers if partly else p.stages[stage].width
    shares = most = 1
    if slowest > 0:
        shares = max(1, int(np.rint(total / slowest)))
        most = max(shares, int(np.rint((total + network_s) / slowest)))
    s.paths[path].kind = kind_of(s, shares, most)


@compiled
def by_tokens(p, s, r, expected, most, tokens):
    """Weighted turns by tokens; see ``schedulers.flow_tokens``."""
    for index in range(s.count[PENDING]):
        path = s.paths[index].turn
        add_load(p, s, path, s.paths[path].pending)
        s.paths[path].pending = 0
    s.count[PENDING] = 0
    vertex, hops = 0, 0
    while True:
        best, least = NOTHING, 0.0
        for index in range(p.ways[vertex]):
            if may_take(p, s, r, p.way[vertex, index], expected, most):
                load = s.load[vertex, index] + tokens / p.weight[vertex, index]
                if best == NOTHING or load < least:
                    best, least = index, load
        if best == NOTHING:
            return NOTHING
        s.walk[hops], s.choice[hops] = vertex, best
        hops += 1
        vertex = p.links[p.way[vertex, best]].head + 1
        if vertex == 0:
            break
    path = path_of(p, s, r, hops)
    if path != NOTHING:
        add_load(p, s, path, tokens)
    return path


@compiled
def add_load(p, s, path, tokens):
    vertex = 0
    for hop in range(s.paths[path].hops + 1):
        index = s.hops[path, hop].choice
        s.load[vertex, index] += tokens / p.weight[vertex, index]
        vertex = p.links[s.hops[path, hop].link].head + 1


@compiled
def by_turns(p, s, r, expected, most):
    """Interleaved weighted round-robin; see ``routing.FlowRouter``. Depth first, the next in turn first."""
    for stage in range(len(p.stages)):
        s.stages[stage].dead_end = False
    hops, vertex = 0, 0
    s.walk[0] = 0
    s.tried[0, :] = False
    while True:
        best, richest = NOTHING, -np.inf
        for index in range(p.ways[vertex]):
            link = p.way[vertex, index]
            dead = p.links[link].head != NOTHING and s.stages[p.links[link].head].dead_end
            if not s.tried[hops, index] and not dead and may_take(p, s, r, link, expected, most):
                wealth = s.load[vertex, index] + p.weight[vertex, index]
                if wealth > richest:
                    best, richest = index, wealth
        if best == NOTHING:
            if hops == 0:
                return NOTHING
            s.stages[vertex - 1].dead_end = True
            hops -= 1
            vertex = s.walk[hops]
            continue
        s.tried[hops, best] = True
        s.choice[hops] = best
        hops += 1
        vertex = p.links[p.way[vertex, best]].head + 1
        if vertex == 0:
            break
        s.walk[hops] = vertex
        s.tried[hops, :] = False
    for hop in range(hops):
        take_turn(p, s, r, s.walk[hop], s.choice[hop], expected, most)
    return path_of(p, s, r, hops)


@compiled
def take_turn(p, s, r, vertex, chosen, expected, most):
    if p.ways[vertex] < 2:
        return
    earned = 0.0
    for index in range(p.ways[vertex]):
        if may_take(p, s, r, p.way[vertex, index], expected, most):
            s.load[vertex, index] += p.weight[vertex, index]
            earned += p.weight[vertex, index]
    s.load[vertex, chosen] -= earned


# ---------------------------------------------------------------------- what goes wrong


@compiled
def leave(p, s, r, attempt):
    """Free what an attempt holds for the tokens that every stage has; the request keeps its tokens."""
    path, request = s.tries[attempt].path, s.tries[attempt].job
    reserve(p, s, r, path, -s.tries[attempt].expected)
    s.count[ACTIVE] -= 1
    for hop in range(s.paths[path].hops):
        s.stages[p.links[s.hops[path, hop].link].head].kv_used -= s.tries[attempt].confirmed * s.hops[path, hop].weight
    if r.micro_batches:
        stage = first_stage(p, s, attempt)
        back(s, attempt, stage)
        s.kind_requests[stage, s.paths[path].kind] -= 1
        if s.queue_first[stage, 0, DECODES] != NOTHING and not s.stages[stage].busy and s.now[0] < s.stages[stage].wake_s:
            s.stages[stage].wake_s = s.now[0]
            at(s, s.now[0], WAKE, stage, 0)
    s.requests[request].generated = p.wanted[s.requests[request].wanted].outputs - s.tries[attempt].left
    s.requests[request].last_token_s = s.tries[attempt].last_s


@compiled
def drop(p, s, attempt, tokens, stage, inclusive):
    """Forget a step of a dead attempt: stages before ``stage`` (with ``inclusive``, it too) held its tokens."""
    s.count[DEAD] -= 1
    path = s.tries[attempt].path
    for hop in range(s.paths[path].hops):
        here = p.links[s.hops[path, hop].link].head
        if here == stage and not inclusive:
            return
        s.stages[here].kv_used -= tokens * s.hops[path, hop].weight
        if here == stage:
            return


@compiled
def living(p, s, first, steps, stage, inclusive):
    """The steps of attempts that are alive: first, last and how many."""
    begin_, last, count, attempt = NOTHING, NOTHING, 0, first
    for _ in range(steps):
        after = s.tries[attempt].step_next
        if not s.tries[attempt].alive:
            drop(p, s, attempt, 1, stage, inclusive)
        else:
            if count == 0:
                begin_ = attempt
            else:
                s.tries[last].step_next = attempt
            last = attempt
            s.tries[last].step_next = NOTHING
            count += 1
        attempt = after
    return begin_, last, count


@compiled
def purge(p, s, r, stage):
    """Forget the steps of dead attempts that wait on a stage."""
    take_arrived(p, s, r, stage)
    for kind in range(2):
        for layer in range(p.stages[stage].width if p.stages[stage].layered else 1):
            run = s.queue_first[stage, layer, kind]
            s.queue_first[stage, layer, kind] = s.queue_last[stage, layer, kind] = NOTHING
            while run != NOTHING:
                after = s.runs[run].next
                entered = p.stages[stage].layered and layer > p.links[s.runs[run].link].skipped
                if kind == PROMPTS:
                    if s.tries[s.runs[run].first].alive:
                        enqueue(s, stage, layer, run)
                    else:
                        drop(p, s, s.runs[run].first, s.runs[run].tokens, stage, entered)
                        free_run(s, run)
                else:
                    first, last, steps = living(p, s, s.runs[run].first, s.runs[run].steps, stage, entered)
                    s.runs[run].first, s.runs[run].last, s.runs[run].steps = first, last, steps
                    if steps:
                        enqueue(s, stage, layer, run)
                    else:
                        free_run(s, run)
                run = after


@compiled
def refuse(p, s, r, stage, run):
    """A step found the KV cache full: its request starts over elsewhere, and more carefully."""
    attempt = s.runs[run].first
    tokens = s.runs[run].tokens if s.runs[run].tokens else 1
    free_run(s, run)
    if not s.tries[attempt].alive:
        drop(p, s, attempt, tokens, stage, False)
        return
    leave(p, s, r, attempt)
    s.tries[attempt].alive = False
    s.count[DEAD] += s.tries[attempt].flying
    request = s.tries[attempt].job
    s.requests[request].cautious = True
    drop(p, s, attempt, tokens, stage, False)
    if s.requests[request].attempts >= MOST_ATTEMPTS:
        s.count[REJECTED] += 1
    else:
        s.count[FIRST_WAITING] = (s.count[FIRST_WAITING] - 1) % len(s.waiting)
        s.waiting[s.count[FIRST_WAITING]] = request
        s.count[WAITING] += 1
    at(s, s.now[0], OPEN, 0, 0)


# ---------------------------------------------------------------------- the loop


@compiled
def open_up(p, s, r):
    """The first events."""
    if not r.saturating:
        at(s, p.wanted[0].arrival_s, ARRIVAL, 0, 0)
    elif r.feeds_by_kv:
        for number in range(r.feed_initial):
            at(s, number * r.feed_spacing_s, FEED, 0, 0)
    else:
        at(s, 0.0, OPEN, 0, 0)


@compiled
def advance(p, s, r, until_s):
    """Run until a time, the end, or until the gaps between tokens have to be taken away; whether there is more."""
    while s.count[EVENT] and s.count[FULL] == 0:
        time_s = s.events[0].time_s
        if time_s > r.end_s:
            s.count[EVENT] = 0
            return False
        if time_s > until_s or s.count[GAP] > STEPS_A_HOME:
            return True
        kind, what, number = s.events[0].kind, s.events[0].what, s.events[0].number
        pop(s)
        s.now[0] = time_s
        if kind == WAKE:
            if not s.stages[what].busy and s.stages[what].wake_s == time_s:
                s.stages[what].wake_s = NEVER
                begin(p, s, r, what)
        elif kind == BATCH_END:
            if s.stages[what].busy and s.stages[what].batch_number == number:
                send_out(p, s, r, what, end_batch(p, s, what))
                begin(p, s, r, what)
        elif kind == HOME:
            on_home(p, s, r, what)
        elif kind == PREFILLED:
            on_prefilled(p, s, r, what, number)
        elif kind == END:
            on_end(p, s, r, what)
        elif kind == FEED:
            submit(p, s, r, draw(p, s, r))
        elif kind == ARRIVAL:
            submit(p, s, r, draw(p, s, r))
            if s.count[DRAWN] < len(p.wanted) and p.wanted[s.count[DRAWN]].arrival_s <= r.end_s:
                at(s, p.wanted[s.count[DRAWN]].arrival_s, ARRIVAL, 0, 0)
        else:
            admit(p, s, r)
    return False
