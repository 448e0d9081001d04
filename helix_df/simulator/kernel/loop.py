"""The event loop: requests start, run through their stages and come home token by token; nodes go and come.

``advance`` goes on until there is something to do outside: a question to a router, a sample, a table that is full.
"""

from __future__ import annotations

from helix_df.simulator.kernel.admission import admit, draw_next, feed_more, schedule_arrival, submit
from helix_df.simulator.kernel.asking import NEEDS_ROOM, NO_QUESTION
from helix_df.simulator.kernel.batches import begin_batch, end_batch
from helix_df.simulator.kernel.events import (
    ARRIVAL,
    BATCH_END,
    CLOSING,
    END,
    FEED,
    GIVE_UP,
    LINK_FREE,
    NODE_DOWN,
    NODE_UP,
    OPENING,
    PREFILLED,
    RETRY,
    RETURN,
    SAMPLE,
    WAKE,
    pop,
    schedule,
)
from helix_df.simulator.kernel.failures import (
    drop,
    free_path,
    give_up,
    leave,
    living,
    node_down,
    node_up,
    purge,
    refuse,
    retry,
)
from helix_df.simulator.kernel.homecoming import hear_next
from helix_df.simulator.kernel.links import leaves, pass_on, post_on, send_groups, send_steps
from helix_df.simulator.kernel.marks import inlined
from helix_df.simulator.kernel.outbox import dispatch, on_link_free
from helix_df.simulator.kernel.paths import spend
from helix_df.simulator.kernel.runs import add_step, free_run, waiting_at
from helix_df.simulator.kernel.tables import NEVER, NOTHING, Fixed, Rules, State

DONE, PAUSED, LOOK, FULL, OPENS, CLOSES, SAMPLES = 10, 11, 12, 13, 14, 15, 16
"""Why ``advance`` came back, beside the questions: nothing more happens, the time it was given is over, so many events
have happened, what was noted has to be taken away, and readings at the window's ends and in between."""


def begin(f: Fixed, s: State, r: Rules, stage: int) -> None:
    """Start the stage's next batch, or wait for the next arrival."""
    row = s.stages[stage]
    while True:
        if s.counts[0].dead and not r.messages:
            purge(f, s, r, stage)
        end_s, refused = begin_batch(f, s, r, stage)
        for index in range(refused):
            refuse(f, s, r, stage, s.refused[index])
        if end_s < NEVER:
            schedule(s, end_s, BATCH_END, stage, row.batch_number)
            return
        if refused == 0:
            break
    row.wake_s = NEVER
    if row.inbox_first != NOTHING:
        row.wake_s = s.runs[row.inbox_first].arrive_s
        schedule(s, row.wake_s, WAKE, stage, 0)


@inlined
def inside(s: State, r: Rules) -> bool:
    """Whether now is in the window."""
    return r.warmup_s <= s.counts[0].now_s <= r.end_s


@inlined
def note_gap(s: State, gap_s: float) -> None:
    """A time between two tokens of a request."""
    c = s.counts[0]
    s.gaps[c.gaps] = gap_s
    c.gaps += 1
    c.noted += 1


def note_token(f: Fixed, s: State, attempt: int, time_s: float) -> None:
    """A token has come home."""
    c, row = s.counts[0], s.attempts[attempt]
    token = s.tokens[c.tokens]
    token.request, token.time_s = row.request, time_s
    token.index = f.requests[s.requests[row.request].wanted].outputs - row.left
    c.tokens += 1
    c.noted += 1


def on_prefilled(f: Fixed, s: State, r: Rules, attempt: int, tokens: int) -> None:
    """A prompt has been through all layers."""
    c, row = s.counts[0], s.attempts[attempt]
    if not row.alive:
        drop(f, s, r, attempt, tokens, NOTHING, True)
        return
    now_s, request, counts = c.now_s, s.requests[row.request], inside(s, r)
    row.confirmed += tokens
    if counts:
        c.prompted += row.prompt
    if request.first_token_s != request.first_token_s:
        request.first_token_s = row.last_s = now_s
    if r.gives_token:
        if r.records:
            note_token(f, s, attempt, now_s)
        if counts:
            c.decoded += 1
            if now_s > row.last_s:
                note_gap(s, now_s - row.last_s)
        c.all_decoded += 1
        row.last_s = request.last_token_s = now_s
        row.left -= 1
        spend(s, r, attempt)
    feed_more(f, s, r, False)
    if row.left == 0:
        row.flying -= 1
        c.afloat -= 1
        on_end(f, s, r, attempt)
    else:
        send_steps(f, s, r, leaves(s, r, attempt), attempt, attempt, 1, 0.0)


def on_return(f: Fixed, s: State, r: Rules, run: int) -> None:
    """Tokens come home; whoever isn't done goes round again."""
    c, back = s.counts[0], s.runs[run]
    attempt, steps, apart_s = back.first, back.steps, back.apart_s
    if c.dead:
        attempt, _, steps = living(f, s, r, attempt, steps, NOTHING, True)
    time_s, counts, done = c.now_s, inside(s, r), False
    back.steps = 0
    for _ in range(steps):
        row = s.attempts[attempt]
        after = row.step_next
        if r.records:
            note_token(f, s, attempt, time_s)
        if counts:
            note_gap(s, time_s - row.last_s)
        row.last_s = time_s
        row.confirmed += 1
        row.left -= 1
        spend(s, r, attempt)
        if row.left:
            add_step(s, run, attempt)
        else:
            done = True
            row.flying -= 1
            c.afloat -= 1
            schedule(s, time_s, END, attempt, 0)
        time_s += apart_s
        attempt = after
    c.all_decoded += steps
    if counts:
        c.decoded += steps
    first, steps = back.first, back.steps
    free_run(s, run)
    if steps:
        send_groups(f, s, r, 0, first, steps, 0.0 if done else apart_s)


def on_end(f: Fixed, s: State, r: Rules, attempt: int) -> None:
    """An attempt has all its tokens."""
    c, row = s.counts[0], s.attempts[attempt]
    if not row.alive:
        return
    leave(f, s, r, attempt)
    row.alive = False
    s.requests[row.request].finished_s = c.now_s
    free_path(s, r, attempt)
    feed_more(f, s, r, True)
    c.admitting = True


def on_stage(f: Fixed, s: State, r: Rules, kind: int, stage: int, number: int) -> None:
    """A stage looks at its inbox, or its batch ends."""
    c, row = s.counts[0], s.stages[stage]
    if kind == WAKE:
        if not row.busy and row.wake_s == c.now_s:
            row.wake_s = NEVER
            begin(f, s, r, stage)
    elif row.busy and row.batch_number == number:
        c.sender, c.passing = stage, end_batch(f, s, r, stage)


def on_other(f: Fixed, s: State, r: Rules, kind: int, what: int, number: int) -> None:
    """Requests come, and nodes go and come."""
    c = s.counts[0]
    if kind == FEED:
        if c.now_s <= r.end_s:
            submit(f, s, r)
    elif kind == ARRIVAL:
        submit(f, s, r)
        c.arriving = True
    elif kind == NODE_DOWN:
        node_down(f, s, r, what, number)
    elif kind == NODE_UP:
        node_up(f, s, r, what, number)
    elif kind == RETRY:
        retry(s, what)
    elif kind == GIVE_UP:
        give_up(s, what)
    else:
        c.admitting = c.drawing = True


def on_reading(f: Fixed, s: State, r: Rules, kind: int, number: int) -> int:
    """Something is read outside, and the next sample scheduled."""
    if kind == OPENING:
        return OPENS
    if kind == CLOSING:
        return CLOSES
    s.counts[0].sampled = number
    for stage in range(len(f.stages)):
        s.stages[stage].seen = waiting_at(s, r, stage)
    if number < r.series:
        schedule(s, (number + 1) * r.sample_s, SAMPLE, 0, number + 1)
    return SAMPLES


def settle(f: Fixed, s: State, r: Rules) -> int:
    """What the last event left to do, as far as no router is to be asked."""
    c = s.counts[0]
    if c.sender != NOTHING:
        stage = c.sender
        if r.messages:
            post_on(f, s, r)
        else:
            question = pass_on(f, s, r)
            if question != NO_QUESTION:
                return question
        begin(f, s, r, stage)
    while True:
        if c.admitting:
            question = admit(f, s, r)
            if question != NO_QUESTION:
                return question
            c.admitting = False
        elif c.returning != NOTHING:
            hear_next(f, s, r)
        elif not r.messages:
            break
        else:
            dispatch(f, s)
            if not c.drawing:
                break
            if c.requests >= c.room_requests:
                return NEEDS_ROOM
            c.drawing = draw_next(f, s, r)
    if c.arriving:
        c.arriving = False
        schedule_arrival(f, s, r)
    return NO_QUESTION


def advance(f: Fixed, s: State, r: Rules, until_s: float, look_at: int) -> int:
    """Let events happen until a time, the end, so many have, or something is to be done outside; which of these."""
    c = s.counts[0]
    while True:
        question = settle(f, s, r)
        if question != NO_QUESTION:
            return question
        if c.noted + (3 + 2 * r.drafts) * c.afloat >= c.room_noted:
            return FULL
        if (
            c.afloat + c.releases >= c.room_afloat
            or c.requests >= c.room_requests
            or c.queued + 4 * c.afloat >= c.room_events
        ):
            return NEEDS_ROOM
        if c.queued == 0:
            return DONE
        time_s = s.events[s.heap[0]].time_s
        if time_s > r.end_s and not r.drains:
            return DONE
        if time_s > until_s:
            return PAUSED
        if c.happened >= look_at:
            return LOOK
        c.happened += 1
        row = s.events[pop(s)]
        kind, what, number = row.kind, row.what, row.number
        c.now_s = time_s
        if kind in (WAKE, BATCH_END):
            on_stage(f, s, r, kind, what, number)
        elif kind == RETURN:
            if r.messages:
                c.returning, c.drawing = what, True
            else:
                on_return(f, s, r, what)
        elif kind == PREFILLED:
            on_prefilled(f, s, r, what, number)
        elif kind == LINK_FREE:
            on_link_free(f, s, what)
        elif kind == END:
            on_end(f, s, r, what)
        elif kind in (OPENING, CLOSING, SAMPLE):
            return on_reading(f, s, r, kind, number)
        else:
            on_other(f, s, r, kind, what, number)
