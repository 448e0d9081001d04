"""Links, and how what has been through a stage goes on."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

from helix_df.simulator.compiled.events import HOME, PREFILLED, WAKE, at
from helix_df.simulator.compiled.failures import drop, living
from helix_df.simulator.compiled.jit import compiled, inlined
from helix_df.simulator.compiled.plant import NOTHING
from helix_df.simulator.compiled.runs import add_step, free_run, new_run, put_in_inbox
from helix_df.simulator.compiled.state import DEAD, ORDER


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
    """A prompt, or a piece of one, over a link; ``ends`` that it is the last."""
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
    """Decode steps of one batch over a link, ``spacing_s`` apart."""
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
    """A run on its way to the stage at the end of a link."""
    stage = p.links[link].head
    s.counts[ORDER] += 1
    s.runs[run].arrive_s, s.runs[run].order, s.runs[run].link = arrive_s, s.counts[ORDER], link
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
    """Decode steps go on from a stage."""
    if steps and s.counts[DEAD]:
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
    """A prompt goes on from a stage."""
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
