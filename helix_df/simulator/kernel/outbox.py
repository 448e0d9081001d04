"""What one decision sends over one link leaves as one message, and arrives together, as the runtime's messages do.

Runs are posted while something is decided, and dispatched when that is done.
"""

from __future__ import annotations

from helix_df.rules.sending import passes
from helix_df.simulator.kernel.drafts import carried
from helix_df.simulator.kernel.events import LINK_FREE, RETURN, WAKE, schedule
from helix_df.simulator.kernel.marks import inlined
from helix_df.simulator.kernel.runs import add_step, free_run, new_run, put_in_inbox
from helix_df.simulator.kernel.tables import NOTHING, Fixed, Rules, State


@inlined
def enlist(s: State, link: int) -> None:
    """A link carries something when what is being decided is."""
    c, row = s.counts[0], s.links[link]
    if row.posted_headers == 0 and row.pieces_first == NOTHING:
        s.posted[c.posted] = link
        c.posted += 1


@inlined
def weigh(s: State, link: int, tokens: int, headers: int) -> None:
    """So much more goes with the message that a link carries next."""
    row = s.links[link]
    enlist(s, link)
    row.posted_tokens += tokens
    row.posted_headers += headers


@inlined
def append(s: State, link: int, run: int) -> None:
    """A run at the end of what a link carries next."""
    row = s.links[link]
    s.runs[run].next = NOTHING
    if row.posted_last == NOTHING:
        row.posted_first = run
    else:
        s.runs[row.posted_last].next = run
    row.posted_last = run


@inlined
def takes_steps(s: State, link: int) -> bool:
    """Whether what a link carries next ends with decode steps, so that another can join them."""
    last = s.links[link].posted_last
    return last != NOTHING and s.runs[last].steps > 0 and not s.runs[last].refused


def post_step(s: State, link: int, attempt: int) -> None:
    """A decode step, or its tokens."""
    weigh(s, link, 1 + s.attempts[attempt].drafts, 1)
    if not takes_steps(s, link):
        append(s, link, new_run(s))
    add_step(s, s.links[link].posted_last, attempt)


def post_steps(s: State, r: Rules, link: int, run: int) -> None:
    """All decode steps of a run, which is used up; what was refused goes as nothing but headers."""
    row = s.runs[run]
    weigh(s, link, 0 if row.refused else carried(s, r, run), row.steps)
    if row.refused or not takes_steps(s, link):
        append(s, link, run)
        return
    last = s.runs[s.links[link].posted_last]
    s.attempts[last.last].step_next = row.first
    last.last = row.last
    last.steps += row.steps
    free_run(s, run)


def post_piece(s: State, link: int, run: int, tokens: int) -> None:
    """A piece of a prompt, or what became of it, that weighs so many tokens."""
    weigh(s, link, tokens, 1)
    append(s, link, run)


def post_apart(s: State, link: int, run: int) -> None:
    """A piece of a prompt as a message of its own, behind what else is posted."""
    row = s.links[link]
    enlist(s, link)
    s.runs[run].next = NOTHING
    if row.pieces_last == NOTHING:
        row.pieces_first = run
    else:
        s.runs[row.pieces_last].next = run
    row.pieces_last = run


def post_release(s: State, link: int, attempt: int) -> None:
    """Word that an attempt is over."""
    run = new_run(s)
    s.runs[run].first = attempt
    s.counts[0].releases += 1
    weigh(s, link, 0, 1)
    append(s, link, run)


def dispatch(f: Fixed, s: State) -> None:
    """Send what was posted, a message a link; what is apart from it waits for the link."""
    c = s.counts[0]
    for at in range(c.posted):
        link = s.posted[at]
        row = s.links[link]
        if row.posted_headers:
            let_pass(f, s, link)
            run, tokens, headers = row.posted_first, row.posted_tokens, row.posted_headers
            row.posted_first = row.posted_last = NOTHING
            row.posted_tokens = row.posted_headers = 0
            carry_message(f, s, link, run, tokens, headers)
        if row.pieces_first != NOTHING:
            if row.waiting_last == NOTHING:
                row.waiting_first = row.pieces_first
            else:
                s.runs[row.waiting_last].next = row.pieces_first
            row.waiting_last = row.pieces_last
            row.pieces_first = row.pieces_last = NOTHING
            carry_waiting(f, s, link)
    c.posted = 0


def let_pass(f: Fixed, s: State, link: int) -> None:
    """Let what is posted pass the first piece that waits for a link, or let that go first."""
    row = s.links[link]
    let_go(f, s, link)
    if row.waiting_first == NOTHING:
        return
    if not passes(row.passed_bytes, bytes_of(f, link, s.runs[row.waiting_first].tokens, 1)):
        carry_first(f, s, link)
    if row.waiting_first != NOTHING:
        row.passed_bytes += bytes_of(f, link, row.posted_tokens, row.posted_headers)


@inlined
def bytes_of(f: Fixed, link: int, tokens: int, headers: int) -> float:
    """Of a message on a link."""
    return tokens * f.links[link].token_bytes + headers * f.links[link].message_bytes


def carry_first(f: Fixed, s: State, link: int) -> None:
    """The first piece that waits for a link is next on it."""
    row = s.links[link]
    run = row.waiting_first
    row.waiting_first = s.runs[run].next
    if row.waiting_first == NOTHING:
        row.waiting_last = NOTHING
    row.passed_bytes = 0.0
    s.runs[run].next = NOTHING
    carry_message(f, s, link, run, s.runs[run].tokens, 1)


@inlined
def let_go(f: Fixed, s: State, link: int) -> None:
    """Put on a link what waits for it, if it is free."""
    while s.links[link].waiting_first != NOTHING and s.links[link].free_s <= s.counts[0].now_s:
        carry_first(f, s, link)


def carry_waiting(f: Fixed, s: State, link: int) -> None:
    """Pieces that wait for a link go as soon as it is free."""
    row = s.links[link]
    let_go(f, s, link)
    if row.waiting_first != NOTHING and not row.woken:
        row.woken = True
        schedule(s, row.free_s, LINK_FREE, link, 0)


def on_link_free(f: Fixed, s: State, link: int) -> None:
    """A link was to be free by now."""
    s.links[link].woken = False
    carry_waiting(f, s, link)


def carry_message(f: Fixed, s: State, link: int, run: int, tokens: int, headers: int) -> None:
    """Put a message of these runs on a link, as soon as that is free."""
    arrive_s, sent_s = cross(f, s, link, tokens, headers)
    if f.links[link].head == NOTHING:
        schedule(s, arrive_s, RETURN, run, 0)
    else:
        deliver_all(f, s, link, run, arrive_s, sent_s)


def cross(f: Fixed, s: State, link: int, tokens: int, headers: int) -> tuple[float, float]:
    """When a link's next message arrives, and when it was sent."""
    fixed, row, start = f.links[link], s.links[link], s.counts[0].now_s
    each = tokens * fixed.token_s + headers * fixed.message_s
    start = max(start, row.free_s)
    nic = fixed.out_nic
    for _ in range(2):
        if nic != NOTHING:
            size = tokens * fixed.token_bytes + headers * fixed.message_bytes
            start = max(start, s.nics[nic].free_s)
            s.nics[nic].free_s = start + size / f.nic_bytes_per_s[nic]
        nic = fixed.in_nic
    row.free_s = start + each
    row.busy_s += each
    return start + each + fixed.latency_s, start


def deliver_all(f: Fixed, s: State, link: int, run: int, arrive_s: float, sent_s: float) -> None:
    """A message on its way to the stage at the end of a link; nobody hears it where that is down."""
    c, stage = s.counts[0], f.links[link].head
    heard = s.stages[stage].up
    while run != NOTHING:
        row = s.runs[run]
        after = row.next
        if heard:
            c.order += 1
            row.arrive_s, row.order, row.link, row.sent_s, row.apart_s = arrive_s, c.order, link, sent_s, 0.0
            put_in_inbox(s, stage, run)
        else:
            lose(s, run)
        run = after
    if heard and not s.stages[stage].busy and arrive_s < s.stages[stage].wake_s:
        s.stages[stage].wake_s = arrive_s
        schedule(s, arrive_s, WAKE, stage, 0)


def lose(s: State, run: int) -> None:
    """Nobody will hear of a run."""
    row = s.runs[run]
    if row.tokens:
        sink(s, row.first)
    elif row.steps == 0:
        s.counts[0].releases -= 1
    else:
        attempt = row.first
        for _ in range(row.steps):
            sink(s, attempt)
            attempt = s.attempts[attempt].step_next
    free_run(s, run)


@inlined
def sink(s: State, attempt: int) -> None:
    """A step or piece isn't on its way any more."""
    c, row = s.counts[0], s.attempts[attempt]
    c.afloat -= 1
    row.flying -= 1
    if not row.alive:
        c.dead -= 1
