"""What a stage hears, and what it knows: an attempt begins with its first piece, and is over when a message says so.

As in the runtime's worker: whatever of an attempt arrives later is dropped, and so is what waits; its cache is freed.
"""

from __future__ import annotations

from helix_df.profiles.kv_windows import first_page
from helix_df.rules.pages import pages_for
from helix_df.simulator.kernel.marks import inlined
from helix_df.simulator.kernel.micro import back, first_stage
from helix_df.simulator.kernel.outbox import lose, sink
from helix_df.simulator.kernel.runs import add_step, enqueue, free_run
from helix_df.simulator.kernel.tables import NOTHING, Fixed, Rules, State

RELEASED, UNKNOWN, BEGUN = -1, 0, 1
"""Entries of ``holds``; whoever has begun holds so many tokens of a prompt more than ``BEGUN``."""


@inlined
def place_of(s: State, r: Rules, attempt: int, stage: int) -> int:
    """Where ``holds`` says what an attempt holds on a stage."""
    return attempt * r.longest + s.hop_at[s.attempts[attempt].path * r.vertices + stage]


@inlined
def cache_weight(s: State, r: Rules, attempt: int, stage: int) -> int:
    """Cache, in tokens times layers, that a page of an attempt takes on a stage."""
    path = s.attempts[attempt].path * r.vertices
    return s.hops[path + s.hop_at[path + stage]].weight * r.page_tokens


def slide(f: Fixed, s: State, r: Rules, stage: int, attempt: int, tokens: int) -> None:
    """Free what an attempt holds on a stage and nobody sees who goes on from ``tokens`` tokens."""
    first, at = first_page(tokens, f.stages[stage].window, r.page_tokens), place_of(s, r, attempt, stage)
    if first > s.behind[at]:
        s.stages[stage].kv_used -= (first - s.behind[at]) * f.stages[stage].windowed * r.page_tokens
        s.behind[at] = first


def hear(f: Fixed, s: State, r: Rules, stage: int, run: int) -> None:
    """One run that has arrived."""
    row = s.runs[run]
    if row.tokens:
        hear_piece(f, s, r, stage, run)
    elif row.steps:
        hear_steps(f, s, r, stage, run)
    else:
        hear_release(f, s, r, stage, run)


def hear_piece(f: Fixed, s: State, r: Rules, stage: int, run: int) -> None:
    """A piece of a prompt waits, if its attempt isn't over."""
    row = s.runs[run]
    attempt = row.first
    at = place_of(s, r, attempt, stage)
    if s.holds[at] == UNKNOWN and row.start == 0 and epoch_of(s, r, attempt, stage) == s.stages[stage].epoch:
        s.holds[at], s.behind[at] = BEGUN, 0
        if r.micro_batches and first_stage(f, s, r, attempt) == stage:
            s.kind_requests[s.paths[s.attempts[attempt].path].kind * len(f.stages) + stage] += 1
    if s.holds[at] >= BEGUN:
        enqueue(s, r, stage, 0, run)
    else:
        lose(s, run)


@inlined
def epoch_of(s: State, r: Rules, attempt: int, stage: int) -> int:
    """Of the stage when the attempt's pipeline was found."""
    path = s.attempts[attempt].path * r.vertices
    return s.hops[path + s.hop_at[path + stage]].epoch


def hear_steps(f: Fixed, s: State, r: Rules, stage: int, run: int) -> None:
    """Decode steps wait, but for those of attempts that are over; their batches are back where they entered."""
    row = s.runs[run]
    enters = r.micro_batches and f.links[row.link].tail == NOTHING
    if s.counts[0].dead == 0 and not enters:
        enqueue(s, r, stage, 0, run)
        return
    attempt, steps = row.first, row.steps
    row.steps = 0
    for _ in range(steps):
        after = s.attempts[attempt].step_next
        if s.holds[place_of(s, r, attempt, stage)] >= BEGUN:
            if enters:
                back(s, attempt)
            add_step(s, run, attempt)
        else:
            sink(s, attempt)
        attempt = after
    if row.steps:
        enqueue(s, r, stage, 0, run)
    else:
        free_run(s, run)


def hear_release(f: Fixed, s: State, r: Rules, stage: int, run: int) -> None:
    """An attempt is over, or will find the door closed."""
    attempt = s.runs[run].first
    s.counts[0].releases -= 1
    free_run(s, run)
    at = place_of(s, r, attempt, stage)
    if s.holds[at] >= BEGUN:
        forget(f, s, r, attempt, stage)
        if s.attempts[attempt].flying:
            forget_waiting(s, r, attempt, stage)
    s.holds[at] = RELEASED


def forget(f: Fixed, s: State, r: Rules, attempt: int, stage: int) -> None:
    """Free what an attempt holds on a stage, and its place among those who decode there."""
    at = place_of(s, r, attempt, stage)
    row, tokens = s.attempts[attempt], s.holds[at] - BEGUN
    if row.confirmed and r.drafts == 0:
        tokens = row.confirmed + (1 if at - attempt * r.longest < row.stepped else 0)
    freed = s.behind[at] * f.stages[stage].windowed * r.page_tokens
    s.stages[stage].kv_used -= pages_for(tokens, r.page_tokens) * cache_weight(s, r, attempt, stage) - freed
    s.holds[at] = RELEASED
    if r.micro_batches and first_stage(f, s, r, attempt) == stage:
        back(s, attempt)
        s.kind_requests[s.paths[s.attempts[attempt].path].kind * len(f.stages) + stage] -= 1


def forget_waiting(s: State, r: Rules, attempt: int, stage: int) -> None:
    """Drop what waits of an attempt on a stage."""
    for at in range(stage * r.layers * 2, (stage + 1) * r.layers * 2):
        queue = s.queues[at]
        run = queue.first
        queue.first = queue.last = NOTHING
        while run != NOTHING:
            row = s.runs[run]
            after = row.next
            if row.tokens and row.first == attempt:
                lose(s, run)
            elif row.tokens or without_step(s, run, attempt):
                enqueue(s, r, stage, 0, run)
            else:
                free_run(s, run)
            run = after


def without_step(s: State, run: int, attempt: int) -> bool:
    """Take the step of an attempt out of a run; whether any is left."""
    row = s.runs[run]
    step, steps = row.first, row.steps
    row.steps = 0
    for _ in range(steps):
        after = s.attempts[step].step_next
        if step == attempt:
            sink(s, step)
        else:
            add_step(s, run, step)
        step = after
    return row.steps > 0
