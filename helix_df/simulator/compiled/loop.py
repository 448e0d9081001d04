"""The event loop of ``simulator.world``, compiled.

Event for event and in the same arithmetic, so that a compiled simulation generates the same tokens at the same times;
``property_tests/test_compiled.py`` holds it to that. What the rules mean is said where they are, and not again in this
package. Ends early with ``FULL`` where a simulation outgrows its arrays.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

import numpy as np

from helix_df.simulator.compiled.batches import begin_batch, end_batch
from helix_df.simulator.compiled.entrance import first_stage
from helix_df.simulator.compiled.events import ARRIVAL, BATCH_END, END, FEED, HOME, OPEN, PREFILLED, WAKE, at, pop
from helix_df.simulator.compiled.failures import drop, leave, living, purge, refuse
from helix_df.simulator.compiled.jit import compiled, inlined
from helix_df.simulator.compiled.links import send_groups, send_out, send_piece, send_steps
from helix_df.simulator.compiled.plant import NEVER, NOTHING
from helix_df.simulator.compiled.runs import add_step, free_run
from helix_df.simulator.compiled.state import (
    ACTIVE,
    ATTEMPT,
    DEAD,
    DECODED,
    DRAWN,
    EVENT,
    FIRST_WAITING,
    FULL,
    GAP,
    PENDING,
    PROMPTED,
    REJECTED,
    REQUEST,
    STEPS_A_HOME,
    WAITING,
)
from helix_df.simulator.compiled.ways import by_tokens, by_turns, fullest_layer, reserve


@inlined
def begin(p, s, r, stage):
    """Start the stage's next batch, or wait for the next arrival."""
    while True:
        if s.counts[DEAD]:
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


@inlined
def inside(s, r):
    """Whether now is in the window."""
    return r.warmup_s <= s.now[0] <= r.end_s


@inlined
def note_gap(s, gap_s):
    """A gap between two tokens of a request."""
    s.gaps[s.counts[GAP]] = gap_s
    s.counts[GAP] += 1


@inlined
def spend(s, r, attempt):
    """Tell the router of a token."""
    if r.by_tokens:
        path = s.tries[attempt].path
        if s.paths[path].pending == 0:
            s.paths[s.counts[PENDING]].turn = path
            s.counts[PENDING] += 1
        s.paths[path].pending += 1


@compiled
def on_prefilled(p, s, r, attempt, tokens):
    """A prompt has been through all layers."""
    if not s.tries[attempt].alive:
        drop(p, s, attempt, tokens, NOTHING, True)
        return
    now, request = s.now[0], s.tries[attempt].job
    s.tries[attempt].confirmed += tokens
    if inside(s, r):
        s.counts[PROMPTED] += s.tries[attempt].prompt
    if np.isnan(s.requests[request].first_token_s):
        s.requests[request].first_token_s = s.tries[attempt].last_s = now
    if r.gives_token:
        if inside(s, r):
            s.counts[DECODED] += 1
            if now > s.tries[attempt].last_s:
                note_gap(s, now - s.tries[attempt].last_s)
        s.tries[attempt].last_s = s.requests[request].last_token_s = now
        s.tries[attempt].left -= 1
        spend(s, r, attempt)
    feed_more(p, s, r)
    if s.tries[attempt].left == 0:
        on_end(p, s, r, attempt)
    else:
        send_steps(p, s, r, s.leaves_by[s.tries[attempt].path, 0], attempt, attempt, 1, 0.0)


@inlined
def on_home(p, s, r, run):
    """Tokens come home; whoever isn't done goes round again."""
    attempt, steps, apart_s = s.runs[run].first, s.runs[run].steps, s.runs[run].apart_s
    if s.counts[DEAD]:
        attempt, _, steps = living(p, s, attempt, steps, NOTHING, True)
    time_s, counts, done = s.now[0], inside(s, r), False
    s.runs[run].steps = 0
    for _ in range(steps):
        after = s.tries[attempt].step_next
        if counts:
            note_gap(s, time_s - s.tries[attempt].last_s)
            s.counts[DECODED] += 1
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
    """An attempt has all its tokens."""
    if not s.tries[attempt].alive:
        return
    leave(p, s, r, attempt)
    s.tries[attempt].alive = False
    feed_more(p, s, r)
    admit(p, s, r)


@compiled
def feed_more(p, s, r):
    """Another request enters if the caches have room."""
    if r.saturating and r.feeds_by_kv and fullest_layer(p, s) <= r.feed_below:
        at(s, s.now[0] + r.feed_delay_s, FEED, 0, 0)


@compiled
def draw(p, s):
    """The next request of the trace; its number."""
    request = s.counts[REQUEST]
    if request + 1 >= len(s.requests):
        s.counts[FULL] = 1
        return 0
    s.counts[REQUEST] += 1
    s.requests[request].wanted = s.counts[DRAWN] % len(p.wanted)
    s.counts[DRAWN] += 1
    s.requests[request].arrived_s = s.now[0]
    s.requests[request].first_token_s = s.requests[request].last_token_s = np.nan
    return request


@compiled
def wait(s, request):
    """To the end of the queue."""
    s.waiting[(s.counts[FIRST_WAITING] + s.counts[WAITING]) % len(s.waiting)] = request
    s.counts[WAITING] += 1


@compiled
def submit(p, s, r, request):
    """A request arrives."""
    if p.wanted[s.requests[request].wanted].most > r.largest or s.counts[WAITING] >= r.max_queue:
        s.counts[REJECTED] += 1
        return
    wait(s, request)
    admit(p, s, r)


@compiled
def next_waiting(s):
    """The first of the queue has left it."""
    s.counts[FIRST_WAITING] = (s.counts[FIRST_WAITING] + 1) % len(s.waiting)
    s.counts[WAITING] -= 1


@compiled
def admit(p, s, r):
    """Start waiting requests, first come first served, for as long as pipelines have room."""
    saturate = r.saturating and not r.feeds_by_kv
    while s.counts[FULL] == 0:
        if s.counts[WAITING] == 0:
            if not saturate:
                return
            request = draw(p, s)
            if p.wanted[s.requests[request].wanted].most > r.largest:
                s.counts[REJECTED] += 1
                if s.counts[DRAWN] > 2 * len(p.wanted):
                    return
                continue
            wait(s, request)
        request = s.waiting[s.counts[FIRST_WAITING]]
        if start(p, s, r, request):
            next_waiting(s)
        elif (r.drops and not saturate) or s.counts[ACTIVE] == 0:
            next_waiting(s)
            s.counts[REJECTED] += 1
        else:
            return


@compiled
def start(p, s, r, request):
    """Start a request if there is a pipeline for it."""
    wanted = s.requests[request].wanted
    tokens = p.wanted[wanted].inputs + s.requests[request].generated
    most = p.wanted[wanted].most
    expected = (
        most
        if s.requests[request].cautious
        else min(most, max(tokens, p.wanted[wanted].inputs + p.wanted[wanted].answer))
    )
    path = by_tokens(p, s, r, expected, most, tokens) if r.by_tokens else by_turns(p, s, r, expected, most)
    if path == NOTHING or s.counts[FULL]:
        return False
    attempt = s.counts[ATTEMPT]
    if attempt + 1 >= len(s.tries):
        s.counts[FULL] = 1
        return False
    s.counts[ATTEMPT] += 1
    s.tries[attempt].job, s.tries[attempt].path, s.tries[attempt].prompt = request, path, tokens
    s.tries[attempt].left = p.wanted[wanted].outputs - s.requests[request].generated
    s.tries[attempt].expected, s.tries[attempt].alive = expected, True
    s.tries[attempt].last_s = s.now[0]
    if s.requests[request].attempts and s.requests[request].generated:
        s.tries[attempt].last_s = s.requests[request].last_token_s
    s.requests[request].attempts += 1
    s.counts[ACTIVE] += 1
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
    while s.counts[EVENT] and s.counts[FULL] == 0:
        time_s = s.events[0].time_s
        if time_s > r.end_s:
            s.counts[EVENT] = 0
            return False
        if time_s > until_s or s.counts[GAP] > STEPS_A_HOME:
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
            submit(p, s, r, draw(p, s))
        elif kind == ARRIVAL:
            submit(p, s, r, draw(p, s))
            if s.counts[DRAWN] < len(p.wanted) and p.wanted[s.counts[DRAWN]].arrival_s <= r.end_s:
                at(s, p.wanted[s.counts[DRAWN]].arrival_s, ARRIVAL, 0, 0)
        else:
            admit(p, s, r)
    return False
