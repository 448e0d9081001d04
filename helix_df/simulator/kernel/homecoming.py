"""What the coordinator makes of a message: tokens, and steps for which a stage had no room."""

from __future__ import annotations

from helix_df.rules.pages import begins_page
from helix_df.simulator.kernel.admission import feed_more
from helix_df.simulator.kernel.drafts import draft, learn
from helix_df.simulator.kernel.failures import leave, start_over
from helix_df.simulator.kernel.marks import inlined
from helix_df.simulator.kernel.outbox import post_step, sink
from helix_df.simulator.kernel.paths import spend
from helix_df.simulator.kernel.runs import free_run
from helix_df.simulator.kernel.tables import Fixed, Rules, State


def hear_next(f: Fixed, s: State, r: Rules) -> None:
    """Go on with the message that came until requests have to be let in, or all of it is heard."""
    c = s.counts[0]
    run = c.returning
    row = s.runs[run]
    if row.tokens:
        c.returning = row.next
        if row.refused:
            hear_refused(f, s, r, row.first)
        else:
            hear_prefilled(f, s, r, row.first)
        free_run(s, run)
        return
    while row.steps and not c.admitting:
        attempt = row.first
        row.first = s.attempts[attempt].step_next
        row.steps -= 1
        if row.refused:
            hear_refused(f, s, r, attempt)
        else:
            hear_token(f, s, r, attempt)
    if row.steps == 0:
        c.returning = row.next
        free_run(s, run)


@inlined
def inside(s: State, r: Rules) -> bool:
    """Whether now is in the window."""
    return r.warmup_s <= s.counts[0].now_s <= r.end_s


def note_token(f: Fixed, s: State, r: Rules, attempt: int, behind: int) -> None:
    """A token has come home, ``behind`` so many others of the same step."""
    c, row = s.counts[0], s.attempts[attempt]
    if r.records:
        token = s.tokens[c.tokens]
        token.request, token.time_s = row.request, c.now_s
        token.index = f.requests[s.requests[row.request].wanted].outputs - row.left
        c.tokens += 1
        c.noted += 1
    if inside(s, r):
        c.decoded += 1
        if c.now_s > row.last_s or behind:
            s.gaps[c.gaps] = c.now_s - row.last_s
            c.gaps += 1
            c.noted += 1
    c.all_decoded += 1
    row.last_s = c.now_s
    row.left -= 1
    spend(s, r, attempt)


@inlined
def confirm(s: State, r: Rules, attempt: int, tokens: int) -> None:
    """All stages hold so many tokens; what the next decode step will take there."""
    row = s.attempts[attempt]
    row.confirmed, row.stepped, row.pages = tokens, 0, begins_page(tokens, r.page_tokens)


def hear_prefilled(f: Fixed, s: State, r: Rules, attempt: int) -> None:
    """A prompt has been through all layers."""
    c, row = s.counts[0], s.attempts[attempt]
    if not row.alive:
        sink(s, attempt)
        return
    request = s.requests[row.request]
    confirm(s, r, attempt, row.prompt)
    if inside(s, r):
        c.prompted += row.prompt
    if request.first_token_s != request.first_token_s:
        request.first_token_s = row.last_s = c.now_s
    if r.gives_token:
        note_token(f, s, r, attempt, 0)
        request.last_token_s = c.now_s
    feed_more(f, s, r, False)
    go_on(f, s, r, attempt)


def hear_token(f: Fixed, s: State, r: Rules, attempt: int) -> None:
    """A decode step has been through all layers."""
    row = s.attempts[attempt]
    if not row.alive:
        sink(s, attempt)
        return
    if r.drafts:
        learn(f, s, r, attempt)
    tokens = 1 + row.drafts
    confirm(s, r, attempt, row.confirmed + tokens)
    for behind in range(tokens):
        note_token(f, s, r, attempt, behind)
    go_on(f, s, r, attempt)


def go_on(f: Fixed, s: State, r: Rules, attempt: int) -> None:
    """The next decode step, or the end."""
    c, row = s.counts[0], s.attempts[attempt]
    if row.left:
        if r.drafts:
            draft(f, s, r, attempt)
        post_step(s, s.leaves_by[row.path * r.vertices], attempt)
        return
    sink(s, attempt)
    leave(f, s, r, attempt)
    row.alive = False
    s.requests[row.request].finished_s = c.now_s
    feed_more(f, s, r, True)
    c.admitting = True


def hear_refused(f: Fixed, s: State, r: Rules, attempt: int) -> None:
    """A stage had no room in its cache: the request starts over, later and more carefully."""
    row = s.attempts[attempt]
    sink(s, attempt)
    if not row.alive:
        return
    s.requests[row.request].worst_case = True
    leave(f, s, r, attempt)
    row.alive = False
    s.counts[0].dead += row.flying
    start_over(f, s, r, row.request, True)
    s.counts[0].admitting = True
