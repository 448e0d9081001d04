"""Runs of steps, the queues they wait in and the inbox they arrive in."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

from helix_df.simulator.compiled.jit import compiled, inlined
from helix_df.simulator.compiled.plant import NOTHING
from helix_df.simulator.compiled.state import DECODES, FREE, FULL, PROMPTS, RUN


@inlined
def new_run(s):
    """A run that nobody uses."""
    run = s.counts[FREE]
    if run != NOTHING:
        s.counts[FREE] = s.runs[run].next
    else:
        run = s.counts[RUN]
        if run + 1 >= len(s.runs):
            s.counts[FULL] = 1
            return 0
        s.counts[RUN] += 1
    s.runs[run].next = NOTHING
    s.runs[run].tokens = 0
    s.runs[run].ends = False
    return run


@inlined
def free_run(s, run):
    """A run is there to be used again."""
    s.runs[run].next = s.counts[FREE]
    s.counts[FREE] = run


@compiled
def copy_run(s, run):
    """Another run that arrived like this one."""
    other = new_run(s)
    s.runs[other].arrive_s, s.runs[other].order, s.runs[other].link = (
        s.runs[run].arrive_s,
        s.runs[run].order,
        s.runs[run].link,
    )
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
def tokens_of(s, run):
    """Tokens that a run brings."""
    return s.runs[run].tokens if s.runs[run].tokens else s.runs[run].steps


@inlined
def earlier(s, one, other):
    """Whether one run arrived before the other."""
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
