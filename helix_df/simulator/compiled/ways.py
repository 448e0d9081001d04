"""Which pipeline a request takes and whether it may: the rules of ``routing``, ``flow_tokens`` and the ledgers."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

import numpy as np

from helix_df.simulator.compiled.entrance import kind_of
from helix_df.simulator.compiled.jit import compiled, inlined
from helix_df.simulator.compiled.plant import NOTHING
from helix_df.simulator.compiled.seconds import decode_s
from helix_df.simulator.compiled.state import BRANCH, FULL, PATH, PENDING


@inlined
def has_room(p, s, r, stage, expected, most):
    """Whether a stage admits a request; the rule of the runtime's ledger, or of the one by layers."""
    width = p.stages[stage].width
    capacity = p.stages[stage].capacity // width
    scale = width if r.by_layer else 1
    if most * scale > capacity * scale:
        return False
    return s.stages[stage].used == 0 or s.stages[stage].used + expected * scale <= r.high_water * (capacity * scale)


@inlined
def may_take(p, s, r, link, expected, most):
    """Whether the stage at the end of a link admits a request; home always does."""
    return p.links[link].head == NOTHING or has_room(p, s, r, p.links[link].head, expected, most)


@compiled
def reserve(p, s, r, path, expected):
    """Count a request on the nodes of its pipeline; a negative number gives it back."""
    for hop in range(s.paths[path].hops):
        link = s.hops[path, hop].link
        s.stages[p.links[link].head].used += expected * (p.links[link].run_layers if r.by_layer else 1)


@compiled
def path_of(p, s, r, hops):
    """The pipeline of ``choice`` at the vertices of ``walk``, which ends with the way home."""
    branch = 0
    for hop in range(hops):
        after = s.branch[branch, s.choice[hop]]
        if after == 0:
            after = s.counts[BRANCH]
            if after + 1 >= len(s.branch):
                s.counts[FULL] = 1
                return NOTHING
            s.counts[BRANCH] += 1
            s.branch[branch, s.choice[hop]] = after
        branch = after
    if s.branch_path[branch] == 0:
        path = s.counts[PATH]
        if path + 1 >= len(s.paths):
            s.counts[FULL] = 1
            return NOTHING
        s.counts[PATH] += 1
        s.branch_path[branch] = path + 1
        new_path(p, s, r, path, hops)
    return s.branch_path[branch] - 1


@compiled
def new_path(p, s, r, path, hops):
    """Note where a pipeline leads and how it is decoded on."""
    s.paths[path].hops = hops - 1
    total, slowest, network_s = 0.0, 0.0, 0.0
    for hop in range(hops):
        vertex = s.walk[hop]
        link = p.way[vertex, s.choice[hop]]
        s.hops[path, hop].link, s.hops[path, hop].choice, s.leaves_by[path, vertex] = link, s.choice[hop], link
        network_s += p.links[link].latency_s
        stage = p.links[link].head
        if stage != NOTHING:
            step_s = p.links[link].run_layers * decode_s(p, stage, 1)
            total, slowest = total + step_s, max(slowest, step_s)
            partly = r.by_layer and p.stages[stage].mixed
            s.hops[path, hop].weight = p.links[link].run_layers if partly else p.stages[stage].width
    shares = most = 1
    if slowest > 0:
        shares = max(1, int(np.rint(total / slowest)))
        most = max(shares, int(np.rint((total + network_s) / slowest)))
    s.paths[path].kind = kind_of(s, shares, most)


@compiled
def by_tokens(p, s, r, expected, most, tokens):
    """Weighted turns by tokens; see ``schedulers.flow_tokens``."""
    for index in range(s.counts[PENDING]):
        path = s.paths[index].turn
        add_load(p, s, path, s.paths[path].pending)
        s.paths[path].pending = 0
    s.counts[PENDING] = 0
    vertex, hops = 0, 0
    while True:
        best, least = NOTHING, 0.0
        for index in range(p.ways[vertex]):
            if may_take(p, s, r, p.way[vertex, index], expected, most):
                load = s.load[vertex, index] + tokens / p.weight[vertex, index]
                if best == NOTHING or load < least:
                    best, least = index, load
        if best == NOTHING:
            return NOTHING
        s.walk[hops], s.choice[hops] = vertex, best
        hops += 1
        vertex = p.links[p.way[vertex, best]].head + 1
        if vertex == 0:
            break
    path = path_of(p, s, r, hops)
    if path != NOTHING:
        add_load(p, s, path, tokens)
    return path


@compiled
def add_load(p, s, path, tokens):
    """Count tokens on all ways of a pipeline."""
    vertex = 0
    for hop in range(s.paths[path].hops + 1):
        index = s.hops[path, hop].choice
        s.load[vertex, index] += tokens / p.weight[vertex, index]
        vertex = p.links[s.hops[path, hop].link].head + 1


@compiled
def by_turns(p, s, r, expected, most):
    """Interleaved weighted round-robin; see ``routing.FlowRouter``. Depth first, the next in turn first."""
    for stage in range(len(p.stages)):
        s.stages[stage].dead_end = False
    hops, vertex = 0, 0
    s.walk[0] = 0
    s.tried[0, :] = False
    while True:
        best, richest = NOTHING, -np.inf
        for index in range(p.ways[vertex]):
            link = p.way[vertex, index]
            dead = p.links[link].head != NOTHING and s.stages[p.links[link].head].dead_end
            if not s.tried[hops, index] and not dead and may_take(p, s, r, link, expected, most):
                wealth = s.load[vertex, index] + p.weight[vertex, index]
                if wealth > richest:
                    best, richest = index, wealth
        if best == NOTHING:
            if hops == 0:
                return NOTHING
            s.stages[vertex - 1].dead_end = True
            hops -= 1
            vertex = s.walk[hops]
            continue
        s.tried[hops, best] = True
        s.choice[hops] = best
        hops += 1
        vertex = p.links[p.way[vertex, best]].head + 1
        if vertex == 0:
            break
        s.walk[hops] = vertex
        s.tried[hops, :] = False
    for hop in range(hops):
        take_turn(p, s, r, s.walk[hop], s.choice[hop], expected, most)
    return path_of(p, s, r, hops)


@compiled
def take_turn(p, s, r, vertex, chosen, expected, most):
    """Spend the turn of a vertex on a choice."""
    if p.ways[vertex] < 2:
        return
    earned = 0.0
    for index in range(p.ways[vertex]):
        if may_take(p, s, r, p.way[vertex, index], expected, most):
            s.load[vertex, index] += p.weight[vertex, index]
            earned += p.weight[vertex, index]
    s.load[vertex, chosen] -= earned


@compiled
def fullest_layer(p, s):
    """Over all layers, the largest share of expected use in what the nodes that hold the layer have together."""
    s.layers[:, :] = 0.0
    for stage in range(len(p.stages)):
        first, width = p.stages[stage].start, p.stages[stage].width
        share, capacity = s.stages[stage].used / width, p.stages[stage].capacity // width
        for layer in range(first, first + width):
            s.layers[layer, 0] += share
            s.layers[layer, 1] += capacity
    fullest = 0.0
    for layer in range(len(s.layers)):
        if s.layers[layer, 1] > 0:
            fullest = max(fullest, s.layers[layer, 0] / s.layers[layer, 1])
    return fullest
