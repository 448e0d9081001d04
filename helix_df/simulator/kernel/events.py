"""The heap of events: those of the same time keep their order."""

from __future__ import annotations

from helix_df.simulator.kernel.marks import inlined
from helix_df.simulator.kernel.tables import NOTHING, State

ARRIVAL, FEED, OPEN, WAKE, BATCH_END, PREFILLED, RETURN, END = 0, 1, 2, 3, 4, 5, 6, 7
NODE_DOWN, NODE_UP, OPENING, CLOSING, SAMPLE, RETRY, LINK_FREE, GIVE_UP = 8, 9, 10, 11, 12, 13, 14, 15


def schedule(s: State, time_s: float, kind: int, what: int, number: int) -> None:
    """Let something happen at a time."""
    c = s.counts[0]
    c.order += 1
    event = c.free_event
    if event == NOTHING:
        event = c.events
        c.events += 1
    else:
        c.free_event = s.events[event].next
    row = s.events[event]
    row.time_s, row.order, row.kind, row.what, row.number = time_s, c.order, kind, what, number
    here = c.queued
    c.queued += 1
    while here > 0:
        above = (here - 1) >> 1
        other = s.heap[above]
        if s.events[other].time_s <= time_s:
            break
        s.heap[here] = other
        here = above
    s.heap[here] = event


@inlined
def later(s: State, one: int, other: int) -> bool:
    """Whether one event comes after the other."""
    first, second = s.events[one], s.events[other]
    if first.time_s != second.time_s:
        return first.time_s > second.time_s
    return first.order > second.order


@inlined
def pop(s: State) -> int:
    """Take the first event off the heap; its row can be read until something is scheduled."""
    c = s.counts[0]
    first = s.heap[0]
    c.queued -= 1
    size = c.queued
    last = s.heap[size]
    here = 0
    while True:
        below = 2 * here + 1
        if below >= size:
            break
        if below + 1 < size and later(s, s.heap[below], s.heap[below + 1]):
            below += 1
        if not later(s, last, s.heap[below]):
            break
        s.heap[here] = s.heap[below]
        here = below
    s.heap[here] = last
    s.events[first].next = c.free_event
    c.free_event = first
    return first
