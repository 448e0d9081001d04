"""Runs of steps, the queues they wait in and the inbox they arrive in."""

from __future__ import annotations

from helix_df.simulator.kernel.marks import inlined
from helix_df.simulator.kernel.tables import DECODES, NOTHING, PROMPTS, Rules, State


@inlined
def new_run(s: State) -> int:
    """A run that nobody uses."""
    c = s.counts[0]
    run = c.free_run
    if run == NOTHING:
        run = c.runs
        c.runs += 1
    else:
        c.free_run = s.runs[run].next
    row = s.runs[run]
    row.next = NOTHING
    row.tokens = row.steps = row.start = 0
    row.ends = row.refused = False
    return run


@inlined
def free_run(s: State, run: int) -> None:
    """A run is there to be used again."""
    c = s.counts[0]
    s.runs[run].next = c.free_run
    c.free_run = run


def copy_run(s: State, run: int) -> int:
    """Another run that arrived like this one, without its steps."""
    other = new_run(s)
    old, new = s.runs[run], s.runs[other]
    new.arrive_s, new.order, new.link = old.arrive_s, old.order, old.link
    new.apart_s, new.sent_s = old.apart_s, old.sent_s
    return other


def cut_run(s: State, run: int, steps: int) -> int:
    """Leave a run its first ``steps`` steps; the run of the others."""
    rest = copy_run(s, run)
    old, new = s.runs[run], s.runs[rest]
    last = old.first
    for _ in range(steps - 1):
        last = s.attempts[last].step_next
    new.first, new.last, new.steps = s.attempts[last].step_next, old.last, old.steps - steps
    old.last, old.steps = last, steps
    s.attempts[last].step_next = NOTHING
    return rest


@inlined
def add_step(s: State, run: int, attempt: int) -> None:
    """Another step at the end of a run."""
    row = s.runs[run]
    s.attempts[attempt].step_next = NOTHING
    if row.steps == 0:
        row.first = attempt
    else:
        s.attempts[row.last].step_next = attempt
    row.last = attempt
    row.steps += 1


@inlined
def tokens_of(s: State, run: int) -> int:
    """Tokens that a run brings."""
    row = s.runs[run]
    return row.tokens if row.tokens else row.steps


@inlined
def earlier(s: State, one: int, other: int) -> bool:
    """Whether one run arrived before the other."""
    first, second = s.runs[one], s.runs[other]
    if first.arrive_s != second.arrive_s:
        return first.arrive_s < second.arrive_s
    return first.order < second.order


def enqueue(s: State, r: Rules, stage: int, layer: int, run: int) -> None:
    """Put a run at the end of its queue."""
    row = s.runs[run]
    queue = s.queues[(stage * r.layers + layer) * 2 + (PROMPTS if row.tokens else DECODES)]
    row.next = NOTHING
    if queue.last == NOTHING:
        queue.first = run
    else:
        s.runs[queue.last].next = run
    queue.last = run


def put_in_inbox(s: State, stage: int, run: int) -> None:
    """Put a run where it belongs by arrival, which is the end nearly always."""
    inbox = s.stages[stage]
    before = inbox.inbox_last
    while before != NOTHING and earlier(s, run, before):
        before = s.runs[before].before
    after = inbox.inbox_first if before == NOTHING else s.runs[before].next
    s.runs[run].before, s.runs[run].next = before, after
    if before == NOTHING:
        inbox.inbox_first = run
    else:
        s.runs[before].next = run
    if after == NOTHING:
        inbox.inbox_last = run
    else:
        s.runs[after].before = run


def waiting_at(s: State, r: Rules, stage: int) -> int:
    """Requests that wait on a stage and aren't in its batch."""
    count = 0
    for at in range(stage * r.layers * 2, (stage + 1) * r.layers * 2):
        run = s.queues[at].first
        while run != NOTHING:
            count += s.runs[run].steps if s.runs[run].tokens == 0 else 1
            run = s.runs[run].next
    run = s.stages[stage].inbox_first
    while run != NOTHING and s.runs[run].arrive_s <= s.counts[0].now_s:
        count += s.runs[run].steps if s.runs[run].tokens == 0 else 1
        run = s.runs[run].next
    return count
