"""Links, and how what has been through a stage goes on."""

from __future__ import annotations

from helix_df.simulator.kernel.asking import ASKS_HOP, NO_QUESTION, show_hop
from helix_df.simulator.kernel.drafts import verify
from helix_df.simulator.kernel.events import PREFILLED, RETURN, WAKE, schedule
from helix_df.simulator.kernel.failures import drop, kill, living, start_over
from helix_df.simulator.kernel.hearing import forget, forget_waiting
from helix_df.simulator.kernel.marks import inlined
from helix_df.simulator.kernel.outbox import dispatch, post_apart, post_piece, post_step, post_steps, sink
from helix_df.simulator.kernel.paths import any_hop_up, join_hop
from helix_df.simulator.kernel.runs import add_step, free_run, new_run, put_in_inbox
from helix_df.simulator.kernel.tables import NOTHING, Fixed, Rules, State


def carry(f: Fixed, s: State, link: int, items: int, tokens_each: int, spacing_s: float) -> tuple[float, float, float]:
    """Send ``items`` transfers, the first ready now and each next one ``spacing_s`` later.

    When the first arrives, how far apart they do, and when the first was sent.
    """
    fixed, row, now_s = f.links[link], s.links[link], s.counts[0].now_s
    each = tokens_each * fixed.token_s + fixed.message_s
    start = now_s if now_s > row.free_s else row.free_s
    apart = each if each > spacing_s else spacing_s
    nic = fixed.out_nic
    for _ in range(2):
        if nic != NOTHING:
            share = (tokens_each * fixed.token_bytes + fixed.message_bytes) / f.nic_bytes_per_s[nic]
            start = max(start, s.nics[nic].free_s)
            apart = max(apart, share)
            s.nics[nic].free_s = start + items * share
        nic = fixed.in_nic
    row.free_s = start + each + (items - 1) * apart
    row.busy_s += items * each
    return start + each + fixed.latency_s, apart, start


def send_piece(f: Fixed, s: State, link: int, attempt: int, tokens: int, ends: bool) -> None:
    """A prompt, or a piece of one, over a link; ``ends``: it is the last."""
    if f.links[link].head == NOTHING:
        arrive_s, _, _ = carry(f, s, link, 1, 1, 0.0)
        schedule(s, arrive_s, PREFILLED, attempt, tokens)
        return
    arrive_s, _, sent_s = carry(f, s, link, 1, tokens, 0.0)
    run = new_run(s)
    row = s.runs[run]
    row.first, row.apart_s, row.sent_s = attempt, 0.0, sent_s
    row.tokens, row.ends = tokens, ends
    deliver(f, s, link, run, arrive_s)


def send_steps(f: Fixed, s: State, r: Rules, link: int, first: int, last: int, steps: int, spacing_s: float) -> None:
    """Decode steps of one batch over a link, ``spacing_s`` apart."""
    arrive_s, apart_s, sent_s = carry(f, s, link, steps, 1, spacing_s)
    if r.bundles:
        arrive_s, apart_s = arrive_s + (steps - 1) * apart_s, 0.0
    run = new_run(s)
    row = s.runs[run]
    s.attempts[last].step_next = NOTHING
    row.first, row.last, row.steps, row.apart_s, row.sent_s = first, last, steps, apart_s, sent_s
    if f.links[link].head == NOTHING:
        schedule(s, arrive_s, RETURN, run, 0)
    else:
        deliver(f, s, link, run, arrive_s)


def deliver(f: Fixed, s: State, link: int, run: int, arrive_s: float) -> None:
    """A run on its way to the stage at the end of a link."""
    c, stage = s.counts[0], f.links[link].head
    c.order += 1
    row = s.runs[run]
    row.arrive_s, row.order, row.link = arrive_s, c.order, link
    put_in_inbox(s, stage, run)
    if not s.stages[stage].busy and arrive_s < s.stages[stage].wake_s:
        s.stages[stage].wake_s = arrive_s
        schedule(s, arrive_s, WAKE, stage, 0)


def pass_on(f: Fixed, s: State, r: Rules) -> int:
    """Pass on what has been through a stage, in the batch's order; steps between two prompts go together.

    A question to the router, if there is one; then it goes on from there when it is called again.
    """
    c = s.counts[0]
    stage, run = c.sender, c.passing
    first, last, steps = NOTHING, NOTHING, 0
    while run != NOTHING:
        row = s.runs[run]
        after = row.next
        if r.observes and c.answer == NOTHING:
            observe(s, run)
        if row.tokens:
            pass_steps(f, s, r, stage, first, last, steps)
            first, last, steps = NOTHING, NOTHING, 0
            if not pass_piece(f, s, r, stage, run):
                c.passing = run
                return ASKS_HOP
        else:
            if steps == 0:
                first = row.first
            else:
                s.attempts[last].step_next = row.first
            last = row.last
            steps += row.steps
        free_run(s, run)
        run = after
    pass_steps(f, s, r, stage, first, last, steps)
    c.sender = c.passing = NOTHING
    return NO_QUESTION


def post_on(f: Fixed, s: State, r: Rules) -> None:
    """Post what has been through a stage, in the batch's order, and word of what found no cache there."""
    c = s.counts[0]
    stage, run = c.sender, c.passing
    while run != NOTHING:
        after = s.runs[run].next
        if r.observes:
            observe(s, run)
        if s.runs[run].refused:
            post_refused(f, s, r, stage, run)
        elif s.runs[run].tokens:
            post_computed(f, s, r, stage, run)
        elif f.stages[stage].only_link != NOTHING and r.drafts == 0:
            post_steps(s, r, f.stages[stage].only_link, run)
        else:
            attempt = s.runs[run].first
            for _ in range(s.runs[run].steps):
                step = attempt
                attempt = s.attempts[attempt].step_next
                link = s.leaves_by[s.attempts[step].path * r.vertices + stage + 1]
                if f.links[link].head == NOTHING:
                    verify(f, s, r, step)
                post_step(s, link, step)
            free_run(s, run)
        run = after
    c.sender = c.passing = NOTHING
    dispatch(f, s)


def post_computed(f: Fixed, s: State, r: Rules, stage: int, run: int) -> None:
    """A piece of a prompt goes on; at the end only the last one is of interest."""
    row = s.runs[run]
    link = s.leaves_by[s.attempts[row.first].path * r.vertices + stage + 1]
    if f.links[link].apart:
        post_apart(s, link, run)
    elif f.links[link].head != NOTHING:
        post_piece(s, link, run, row.tokens)
    elif row.ends:
        post_piece(s, link, run, 1)
    else:
        sink(s, row.first)
        free_run(s, run)


def post_refused(f: Fixed, s: State, r: Rules, stage: int, run: int) -> None:
    """Attempts that found no cache are over here, and the coordinator is told."""
    row = s.runs[run]
    attempt = row.first
    for _ in range(max(row.steps, 1)):
        after = s.attempts[attempt].step_next
        forget(f, s, r, attempt, stage)
        if s.attempts[attempt].flying > 1:
            forget_waiting(s, r, attempt, stage)
        attempt = after
    if row.tokens:
        post_piece(s, f.from_stage[stage], run, 0)
    else:
        post_steps(s, r, f.from_stage[stage], run)


def observe(s: State, run: int) -> None:
    """Note for the router how long a hop took."""
    c, row = s.counts[0], s.runs[run]
    seen = s.hop_times[c.observed]
    seen.link, seen.seconds, seen.steps = row.link, c.now_s - row.sent_s, row.steps if row.tokens == 0 else 1
    c.observed += 1
    c.noted += 1


def pass_steps(f: Fixed, s: State, r: Rules, stage: int, first: int, last: int, steps: int) -> None:
    """Decode steps go on from a stage."""
    if steps and s.counts[0].dead:
        first, last, steps = living(f, s, r, first, steps, stage, True)
    if steps == 0:
        return
    if f.stages[stage].only_link != NOTHING:
        send_steps(f, s, r, f.stages[stage].only_link, first, last, steps, 0.0)
        return
    send_groups(f, s, r, stage + 1, first, steps, 0.0)


def send_groups(f: Fixed, s: State, r: Rules, vertex: int, first: int, steps: int, spacing_s: float) -> None:
    """Send every step by the link by which its pipeline leaves a vertex."""
    groups, attempt = 0, first
    for _ in range(steps):
        after = s.attempts[attempt].step_next
        link = s.leaves_by[s.attempts[attempt].path * r.vertices + vertex]
        group = 0
        while group < groups and s.runs[s.groups[group]].link != link:
            group += 1
        if group == groups:
            s.groups[group] = new_run(s)
            s.runs[s.groups[group]].link = link
            groups += 1
        add_step(s, s.groups[group], attempt)
        attempt = after
    for group in range(groups):
        row = s.runs[s.groups[group]]
        first, last, steps, link = row.first, row.last, row.steps, row.link
        free_run(s, s.groups[group])
        send_steps(f, s, r, link, first, last, steps, spacing_s)


def pass_piece(f: Fixed, s: State, r: Rules, stage: int, run: int) -> bool:
    """A prompt goes on from a stage; ``False`` when the router has to say where to."""
    c, row = s.counts[0], s.runs[run]
    attempt, tokens = row.first, row.tokens
    if not s.attempts[attempt].alive:
        drop(f, s, r, attempt, tokens, stage, True)
        return True
    path = s.attempts[attempt].path
    link = s.leaves_by[path * r.vertices + stage + 1]
    if link == NOTHING:
        if c.answer == NOTHING:
            if any_hop_up(f, s, r, stage + 1):
                show_hop(f, s, r, stage + 1, s.attempts[attempt].prompt)
                return False
            kill(f, s, r, attempt)
            drop(f, s, r, attempt, tokens, stage, True)
            start_over(f, s, r, s.attempts[attempt].request, True)
            return True
        link, c.answer = c.answer, NOTHING
        join_hop(f, s, r, path, link)
    if f.links[link].head == NOTHING and not row.ends:
        s.attempts[attempt].confirmed += tokens
        s.attempts[attempt].flying -= 1
        c.afloat -= 1
    else:
        send_piece(f, s, link, attempt, tokens, row.ends)
    return True


@inlined
def leaves(s: State, r: Rules, attempt: int) -> int:
    """The link by which an attempt's steps leave the coordinator."""
    return s.leaves_by[s.attempts[attempt].path * r.vertices]
