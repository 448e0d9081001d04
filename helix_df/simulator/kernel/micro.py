"""Micro-batches at the first stage of pipelines: who decodes there, and which of its batches are under way."""

from __future__ import annotations

from helix_df.rules.micro_batches import batch_room, batch_share
from helix_df.simulator.kernel.tables import NOTHING, Fixed, Rules, State


def first_stage(f: Fixed, s: State, r: Rules, attempt: int) -> int:
    """Where an attempt enters its pipeline."""
    return f.links[s.hops[s.attempts[attempt].path * r.vertices].link].head


def back(s: State, attempt: int) -> None:
    """The last step of a request has been around, and so its batch is back."""
    batch = s.attempts[attempt].batch
    if batch == NOTHING:
        return
    land(s, batch)
    withdraw(s, attempt)


def land(s: State, batch: int) -> None:
    """A batch is under way no more."""
    row = s.batches[batch]
    if row.under_way:
        row.under_way = False
        s.stages[row.stage].under_way -= 1


def withdraw(s: State, attempt: int) -> None:
    """A request is no longer of its batch, which ends with its last one."""
    batch = s.attempts[attempt].batch
    if batch == NOTHING:
        return
    s.attempts[attempt].batch = NOTHING
    s.batches[batch].members -= 1
    if s.batches[batch].members == 0:
        land(s, batch)
        s.batches[batch].next = s.counts[0].free_batch
        s.counts[0].free_batch = batch


def room(f: Fixed, s: State, stage: int) -> int:
    """Requests that the next batch may take of those that enter here."""
    total, most, stages = 0.0, 0, len(f.stages)
    for kind in range(s.counts[0].kinds):
        requests = s.kind_requests[kind * stages + stage]
        if requests:
            total += requests / s.kinds[kind].shares
            most = max(most, s.kinds[kind].most)
    if most == 0:
        return 0
    return batch_room(batch_share(total), s.stages[stage].under_way, most, f.stages[stage].max_batch)


def kind_of(s: State, shares: int, most: int) -> int:
    """The place of a kind of micro-batches among all kinds."""
    c = s.counts[0]
    for kind in range(c.kinds):
        if s.kinds[kind].shares == shares and s.kinds[kind].most == most:
            return kind
    kind = c.kinds
    c.kinds += 1
    s.kinds[kind].shares, s.kinds[kind].most = shares, most
    return kind


def launch(s: State, stage: int) -> int:
    """Another batch of requests that enter here is under way; who is in it is still to be said."""
    c = s.counts[0]
    batch = c.free_batch
    if batch == NOTHING:
        batch = c.batches
        c.batches += 1
    else:
        c.free_batch = s.batches[batch].next
    row = s.batches[batch]
    row.stage, row.members, row.under_way = stage, 0, True
    s.stages[stage].under_way += 1
    return batch
