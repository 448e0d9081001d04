"""Questions to a router outside: what it is shown, and what is waited for. The answer is put into ``Counts.answer``."""

from __future__ import annotations

from helix_df.simulator.kernel.runs import waiting_at
from helix_df.simulator.kernel.tables import NOTHING, Fixed, Rules, State

NO_QUESTION, ASKS_PATH, ASKS_HOP, NEEDS_ROOM = 0, 1, 2, 3


def show_stage(s: State, r: Rules, stage: int) -> None:
    """Let the router see how many requests wait on a stage, or how many pass it."""
    s.stages[stage].seen = waiting_at(s, r, stage) if r.sees_all else s.stages[stage].through


def show_link(f: Fixed, s: State, r: Rules, link: int) -> None:
    """Let the router see for how long a link is still busy, if it may."""
    row = s.links[link]
    row.seen_s = max(0.0, row.free_s - s.counts[0].now_s) if r.sees_all else 0.0
    run = row.waiting_first if r.sees_all else NOTHING
    while run != NOTHING:
        row.seen_s += s.runs[run].tokens * f.links[link].token_s + f.links[link].message_s
        run = s.runs[run].next


def show_hop(f: Fixed, s: State, r: Rules, vertex: int, tokens: int) -> None:
    """Ask where a prompt of so many tokens goes from a vertex; the answer is a link."""
    c = s.counts[0]
    c.asked_vertex, c.asked_tokens = vertex, tokens
    for at in range(vertex * r.fanout, (vertex + 1) * r.fanout):
        link = f.next_link[at]
        if link == NOTHING:
            break
        show_link(f, s, r, link)
        if f.links[link].head != NOTHING:
            show_stage(s, r, f.links[link].head)


def show_all(f: Fixed, s: State, r: Rules, request: int, tokens: int) -> None:
    """Ask for a pipeline for a request; the answer is the number of its hops, home included, or 0 for none."""
    c = s.counts[0]
    c.asked_request, c.asked_tokens = request, tokens
    for link in range(len(f.links)):
        show_link(f, s, r, link)
    for stage in range(len(f.stages)):
        show_stage(s, r, stage)
