"""Micro-batches: the rules of ``helix_df.rules.micro_batches``."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

import math

from helix_df.simulator.compiled.jit import compiled
from helix_df.simulator.compiled.state import BATCH, FULL, KIND, KINDS, UNDER_WAY

ROUNDING = 1e-9


@compiled
def first_stage(p, s, attempt):
    """Where an attempt enters its pipeline."""
    return p.links[s.hops[s.tries[attempt].path, 0].link].head


@compiled
def back(s, attempt, stage):
    """The last step of a request has been around to the stage where it entered."""
    batch = s.tries[attempt].batch_of
    if batch == 0:
        return
    s.tries[attempt].batch_of = 0
    for at_ in range(s.stages[stage].under_ways):
        if s.under_way[stage, at_] == batch:
            s.stages[stage].under_ways -= 1
            s.under_way[stage, at_] = s.under_way[stage, s.stages[stage].under_ways]
            return


@compiled
def room(p, s, stage):
    """Requests that the next batch may take of those that enter here."""
    total, most = 0.0, 0
    for kind in range(s.counts[KIND]):
        requests = s.kind_requests[stage, kind]
        if requests:
            total += requests / s.kinds[kind].shares
            most = max(most, s.kinds[kind].most)
    if most == 0:
        return 0
    share = math.ceil(total - ROUNDING)
    if share > p.stages[stage].max_batch:
        most = math.ceil(most * share / p.stages[stage].max_batch)
    return share if s.stages[stage].under_ways < most else 0


@compiled
def kind_of(s, shares, most):
    """The place of a kind of micro-batches among all kinds."""
    for kind in range(s.counts[KIND]):
        if s.kinds[kind].shares == shares and s.kinds[kind].most == most:
            return kind
    kind = s.counts[KIND]
    if kind + 1 >= KINDS:
        s.counts[FULL] = 1
        return 0
    s.counts[KIND] += 1
    s.kinds[kind].shares, s.kinds[kind].most = shares, most
    return kind


@compiled
def launch(s, stage):
    """Another batch of requests that enter here is under way; its number."""
    s.counts[BATCH] += 1
    if s.stages[stage].under_ways + 1 >= UNDER_WAY:
        s.counts[FULL] = 1
        return s.counts[BATCH]
    s.under_way[stage, s.stages[stage].under_ways] = s.counts[BATCH]
    s.stages[stage].under_ways += 1
    return s.counts[BATCH]
