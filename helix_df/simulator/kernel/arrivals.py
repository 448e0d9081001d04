"""What arrives at a stage goes into its queues."""

from __future__ import annotations

from helix_df.simulator.kernel.hearing import hear
from helix_df.simulator.kernel.micro import back
from helix_df.simulator.kernel.runs import cut_run, enqueue, put_in_inbox
from helix_df.simulator.kernel.tables import NOTHING, Fixed, Rules, State


def take_arrived(f: Fixed, s: State, r: Rules, stage: int) -> None:
    """Move what has arrived into the queues; what is still on its way of a run stays in the inbox."""
    now_s, later, row = s.counts[0].now_s, NOTHING, s.stages[stage]
    run = row.inbox_first
    while run != NOTHING and s.runs[run].arrive_s <= now_s:
        after = s.runs[run].next
        row.inbox_first = after
        if r.messages:
            hear(f, s, r, stage, run)
            run = after
            continue
        if s.runs[run].tokens:
            row.received += s.runs[run].tokens
        else:
            rest = cut_late(s, run, now_s)
            if rest != NOTHING:
                s.runs[rest].next = later
                later = rest
            row.received += s.runs[run].steps
            if r.micro_batches:
                batches_back(s, stage, run)
        enqueue(s, r, stage, f.links[s.runs[run].link].skipped if f.stages[stage].layered else 0, run)
        run = after
    if row.inbox_first == NOTHING:
        row.inbox_last = NOTHING
    else:
        s.runs[row.inbox_first].before = NOTHING
    while later != NOTHING:
        after = s.runs[later].next
        put_in_inbox(s, stage, later)
        later = after


def cut_late(s: State, run: int, now_s: float) -> int:
    """A run of what arrives later than now, or ``NOTHING``."""
    row = s.runs[run]
    steps, arrive_s, apart_s = row.steps, row.arrive_s, row.apart_s
    if apart_s > 0.0 and steps > 1 and arrive_s + apart_s * (steps - 1) > now_s:
        here = int((now_s - arrive_s) / apart_s) + 1
        if here < steps:
            rest = cut_run(s, run, here)
            s.runs[rest].arrive_s = arrive_s + here * apart_s
            s.runs[rest].sent_s = row.sent_s + s.runs[rest].arrive_s - arrive_s
            return rest
    return NOTHING


def batches_back(s: State, stage: int, run: int) -> None:
    """The batches that entered their pipelines here are back with the steps of a run."""
    attempt = s.runs[run].first
    for _ in range(s.runs[run].steps):
        batch = s.attempts[attempt].batch
        if batch != NOTHING and s.batches[batch].stage == stage:
            back(s, attempt)
        attempt = s.attempts[attempt].step_next
