"""The heap of events: those of the same time keep their order."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

from helix_df.simulator.compiled.jit import compiled, inlined
from helix_df.simulator.compiled.state import EVENT, FULL, ORDER

ARRIVAL, FEED, OPEN, WAKE, BATCH_END, PREFILLED, HOME, END = range(8)


@compiled
def at(s, time_s, kind, what, number):
    """An event; those of the same time keep their order."""
    s.counts[ORDER] += 1
    order, here = s.counts[ORDER], s.counts[EVENT]
    if here >= len(s.events):
        s.counts[FULL] = 1
        return
    s.counts[EVENT] += 1
    while here > 0:
        above = (here - 1) >> 1
        if s.events[above].time_s <= time_s:
            break
        move_event(s, above, here)
        here = above
    s.events[here].time_s, s.events[here].order, s.events[here].kind = time_s, order, kind
    s.events[here].what, s.events[here].number = what, number


@inlined
def move_event(s, here, there):
    """An event to another place of the heap."""
    s.events[there].time_s, s.events[there].order = s.events[here].time_s, s.events[here].order
    s.events[there].kind, s.events[there].what = s.events[here].kind, s.events[here].what
    s.events[there].number = s.events[here].number


@inlined
def later(s, one, other):
    """Whether one event comes after the other."""
    if s.events[one].time_s != s.events[other].time_s:
        return s.events[one].time_s > s.events[other].time_s
    return s.events[one].order > s.events[other].order


@inlined
def pop(s):
    """Take the first event off the heap."""
    s.counts[EVENT] -= 1
    last = s.counts[EVENT]
    here = 0
    while True:
        below = 2 * here + 1
        if below >= last:
            break
        if below + 1 < last and later(s, below, below + 1):
            below += 1
        if not later(s, last, below):
            break
        move_event(s, below, here)
        here = below
    move_event(s, last, here)
