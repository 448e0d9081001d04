"""Which pipeline a request takes: weighted turns over the plan's flow, by requests or by tokens; and whether it may.

The turns are those of ``rules.routing.FlowRouter`` and ``rules.schedulers.flow_tokens``, over tables; a property test
holds them to that. Every other scheduler is asked outside, and only what it chose is noted here.
"""

from __future__ import annotations

from helix_df.profiles.kv_windows import held_tokens
from helix_df.rules.admission import admits
from helix_df.rules.micro_batches import equal_shares, most_under_way
from helix_df.simulator.kernel.marks import inlined
from helix_df.simulator.kernel.micro import kind_of
from helix_df.simulator.kernel.seconds import decode_s
from helix_df.simulator.kernel.tables import BY_TOKENS, NO_LIMIT, NOTHING, Fixed, Rules, State


def has_room(f: Fixed, s: State, r: Rules, stage: int, expected: int, most: int) -> bool:
    """Whether a stage admits a request."""
    row = s.stages[stage]
    if r.open or not row.up:
        return row.up
    width = f.stages[stage].width
    differ = 0 < f.stages[stage].windowed < width
    scale = width if r.by_layer or differ else 1
    capacity = f.stages[stage].capacity // width * scale
    if f.stages[stage].windowed:
        return admits(row.used, held_on(f, r, stage, expected), held_on(f, r, stage, most), capacity, r.high_water)
    return admits(row.used, expected * scale, most * scale, capacity, r.high_water)


@inlined
def held_on(f: Fixed, r: Rules, stage: int, tokens: int) -> int:
    """What a request takes at most of the cache of a stage that frees some until it has ``tokens``, as a ``KvShape``
    says."""
    row = f.stages[stage]
    held = held_tokens(tokens, row.window, r.prefill_chunk, r.page_tokens)
    return held if row.windowed == row.width else (row.width - row.windowed) * tokens + row.windowed * held


@inlined
def may_take(f: Fixed, s: State, r: Rules, link: int, expected: int, most: int) -> bool:
    """Whether the stage at the end of a link admits a request; the coordinator always does."""
    head = f.links[link].head
    return head == NOTHING or has_room(f, s, r, head, expected, most)


def reserve(f: Fixed, s: State, r: Rules, path: int, expected: int) -> None:
    """Count a request on the stages of its pipeline; a negative number gives it back."""
    if r.by_hop:
        return
    count = 1 if expected > 0 else -1
    for at in range(path * r.vertices, path * r.vertices + s.paths[path].hops):
        link = f.links[s.hops[at].link]
        s.stages[link.head].through += count
        if not r.open:
            held = expected * (link.run_layers if r.by_layer else 1)
            if f.stages[link.head].windowed:
                held = count * held_on(f, r, link.head, count * expected)
            s.stages[link.head].used += held


def path_of(f: Fixed, s: State, r: Rules, turns: int) -> int:
    """The pipeline of the first ``turns`` rows of ``walk``, which ends at the coordinator."""
    c = s.counts[0]
    branch = 0
    for turn in range(turns):
        at = branch * r.fanout + s.walk[turn].choice
        if s.branches[at] == 0:
            s.branches[at] = c.branches
            c.branches += 1
        branch = s.branches[at]
    if s.leaf[branch] == 0:
        path = c.paths
        c.paths += 1
        s.leaf[branch] = path + 1
        new_path(f, s, r, path, turns)
        s.paths[path].branch = branch
    return s.leaf[branch] - 1


def new_path(f: Fixed, s: State, r: Rules, path: int, turns: int) -> None:
    """Note where a pipeline leads and how it is decoded on."""
    row = s.paths[path]
    row.hops, row.pending = turns - 1, 0
    total, slowest, network_s, token_s, sent_s = 0.0, 0.0, 0.0, 0.0, 0.0
    for turn in range(turns):
        vertex, choice = s.walk[turn].vertex, s.walk[turn].choice
        link = f.next_link[vertex * r.fanout + choice]
        set_hop(f, s, r, path, turn, link)
        s.hops[path * r.vertices + turn].choice = choice
        network_s += f.links[link].latency_s
        stage = f.links[link].head
        if stage != NOTHING:
            step_s = f.links[link].run_layers * decode_s(f, stage, 1)
            total, slowest = total + step_s, max(slowest, step_s)
            token_s += f.links[link].run_layers * f.stages[stage].more_s
            if f.links[link].tail != NOTHING:
                sent_s += f.links[link].token_s
    row.step_s, row.token_s = total + network_s + sent_s, token_s + sent_s
    shares = equal_shares(total, slowest)
    row.kind = kind_of(s, shares, most_under_way(shares, total + network_s, slowest))


def set_hop(f: Fixed, s: State, r: Rules, path: int, hop: int, link: int) -> None:
    """Note one hop of a pipeline."""
    fixed, row = f.links[link], s.hops[path * r.vertices + hop]
    s.leaves_by[path * r.vertices + fixed.tail + 1] = link
    row.link = link
    if r.messages and fixed.head != NOTHING:
        s.hop_at[path * r.vertices + fixed.head] = hop
    if fixed.head != NOTHING:
        stage = f.stages[fixed.head]
        row.weight = fixed.run_layers if r.by_layer and stage.mixed else stage.width
        row.epoch = s.stages[fixed.head].epoch


def own_path(s: State, r: Rules) -> int:
    """A pipeline for one attempt alone, which is found hop by hop."""
    c = s.counts[0]
    path = c.free_path
    if path == NOTHING:
        path = c.paths
        c.paths += 1
    else:
        c.free_path = s.paths[path].turn
    s.paths[path].hops = 0
    for vertex in range(path * r.vertices, (path + 1) * r.vertices):
        s.leaves_by[vertex] = NOTHING
    return path


def join_hop(f: Fixed, s: State, r: Rules, path: int, link: int) -> None:
    """The next hop of a pipeline that is found hop by hop."""
    set_hop(f, s, r, path, s.paths[path].hops, link)
    if f.links[link].head != NOTHING:
        s.paths[path].hops += 1


def forget_paths(f: Fixed, s: State, r: Rules, stage: int) -> None:
    """Let no request take a pipeline through a stage that went down; whoever comes after it is up gets another."""
    for path in range(s.counts[0].paths if not r.by_hop else 0):
        for at in range(path * r.vertices, path * r.vertices + s.paths[path].hops):
            if f.links[s.hops[at].link].head == stage and s.leaf[s.paths[path].branch] == path + 1:
                s.leaf[s.paths[path].branch] = 0


def find_path(f: Fixed, s: State, r: Rules, expected: int, most: int, tokens: int) -> int:
    """The pipeline whose turn it is, or ``NOTHING``."""
    if r.routes == BY_TOKENS:
        return by_tokens(f, s, r, expected, most, tokens)
    return by_turns(f, s, r, expected, most)


def by_tokens(f: Fixed, s: State, r: Rules, expected: int, most: int, tokens: int) -> int:
    """Weighted turns by tokens; see ``rules.schedulers.flow_tokens``."""
    c = s.counts[0]
    for index in range(c.pending):
        path = s.paths[index].turn
        add_load(f, s, r, path, s.paths[path].pending)
        s.paths[path].pending = 0
    c.pending = 0
    vertex, turns = 0, 0
    while True:
        best, least = NOTHING, 0.0
        for choice in range(r.fanout):
            at = vertex * r.fanout + choice
            if f.next_link[at] == NOTHING:
                break
            if may_take(f, s, r, f.next_link[at], expected, most):
                load = s.load[at] + tokens / f.weight[at]
                if best == NOTHING or load < least:
                    best, least = choice, load
        if best == NOTHING:
            return NOTHING
        s.walk[turns].vertex, s.walk[turns].choice = vertex, best
        turns += 1
        vertex = f.links[f.next_link[vertex * r.fanout + best]].head + 1
        if vertex == 0:
            break
    path = path_of(f, s, r, turns)
    add_load(f, s, r, path, tokens)
    return path


def add_load(f: Fixed, s: State, r: Rules, path: int, tokens: int) -> None:
    """Count tokens on all hops of a pipeline."""
    for at in range(path * r.vertices, path * r.vertices + s.paths[path].hops + 1):
        here = (f.links[s.hops[at].link].tail + 1) * r.fanout + s.hops[at].choice
        s.load[here] += tokens / f.weight[here]


@inlined
def spend(s: State, r: Rules, attempt: int) -> None:
    """Note a token that the router counts."""
    if r.counts_tokens and not r.by_hop:
        path = s.attempts[attempt].path
        if s.paths[path].pending == 0:
            s.paths[s.counts[0].pending].turn = path
            s.counts[0].pending += 1
        s.paths[path].pending += 1


def by_turns(f: Fixed, s: State, r: Rules, expected: int, most: int) -> int:
    """Smooth weighted round-robin; see ``rules.routing.FlowRouter``. Depth first, the next in turn first."""
    for stage in range(len(f.stages)):
        s.stages[stage].dead_end = False
    turns, vertex = 0, 0
    s.walk[0].vertex = 0
    clear_tried(s, r, 0)
    while True:
        best = richest_choice(f, s, r, turns, vertex, expected, most)
        if best == NOTHING:
            if turns == 0:
                return NOTHING
            s.stages[vertex - 1].dead_end = True
            turns -= 1
            vertex = s.walk[turns].vertex
            continue
        s.tried[turns * r.fanout + best] = True
        s.walk[turns].choice = best
        turns += 1
        vertex = f.links[f.next_link[vertex * r.fanout + best]].head + 1
        if vertex == 0:
            break
        s.walk[turns].vertex = vertex
        clear_tried(s, r, turns)
    for turn in range(turns):
        take_turn(f, s, r, s.walk[turn].vertex, s.walk[turn].choice, expected, most)
    return path_of(f, s, r, turns)


def clear_tried(s: State, r: Rules, turn: int) -> None:
    """Nothing has been tried yet at a step of the search."""
    for at in range(turn * r.fanout, (turn + 1) * r.fanout):
        s.tried[at] = False


@inlined
def first_weight(s: State, r: Rules) -> int:
    """Where the weights of the flow in force begin."""
    return s.counts[0].flow * r.vertices * r.fanout


def go_by(s: State, r: Rules, flow: int) -> None:
    """Let requests go by another flow from now on; turns begin anew."""
    if flow:
        s.counts[0].flow = flow
        for at in range(r.vertices * r.fanout):
            s.load[at] = 0.0


def richest_choice(f: Fixed, s: State, r: Rules, turn: int, vertex: int, expected: int, most: int) -> int:
    """The choice of a vertex that is next in turn, of those that weren't tried and don't lead nowhere."""
    best, richest = NOTHING, -1e300
    flow = first_weight(s, r)
    for choice in range(r.fanout):
        at = vertex * r.fanout + choice
        link = f.next_link[at]
        if link == NOTHING:
            break
        head = f.links[link].head
        if s.tried[turn * r.fanout + choice] or (head != NOTHING and s.stages[head].dead_end):
            continue
        weight = f.weight[flow + at]
        wealth = s.load[at] + weight
        if weight > 0 and wealth > richest and may_take(f, s, r, link, expected, most):
            best, richest = choice, wealth
    return best


def take_turn(f: Fixed, s: State, r: Rules, vertex: int, chosen: int, expected: int, most: int) -> None:
    """Spend the turn of a vertex on a choice."""
    first, flow = vertex * r.fanout, first_weight(s, r)
    if r.fanout < 2 or f.next_link[first + 1] == NOTHING:
        return
    earned = 0.0
    for at in range(first, first + r.fanout):
        if f.next_link[at] == NOTHING:
            break
        if f.weight[flow + at] > 0 and may_take(f, s, r, f.next_link[at], expected, most):
            s.load[at] += f.weight[flow + at]
            earned += f.weight[flow + at]
    s.load[first + chosen] -= earned


def fullest_layer(f: Fixed, s: State) -> float:
    """Over all layers, the largest share of expected use in what the nodes that hold the layer have together."""
    for layer in range(len(s.layer_used)):
        s.layer_used[layer] = s.layer_total[layer] = 0.0
    for stage in range(len(f.stages)):
        if not s.stages[stage].up:
            continue
        start, width = f.stages[stage].start, f.stages[stage].width
        share, capacity = s.stages[stage].used / width, f.stages[stage].capacity // width
        for layer in range(start, start + width):
            s.layer_used[layer] += share
            s.layer_total[layer] += capacity
    fullest = 0.0
    for layer in range(len(s.layer_used)):
        if s.layer_total[layer] > 0:
            fullest = max(fullest, s.layer_used[layer] / s.layer_total[layer])
    return fullest


def largest_up(f: Fixed, s: State, r: Rules) -> int:
    """The most tokens that fit through every stage of some pipeline of stages that are up; 0 when there is none."""
    found, flow = 0, s.counts[0].flow * len(f.links)
    for stage in range(len(f.stages)):
        s.stages[stage].fits = 0
    for link in range(len(f.links)):
        if f.links[link].tail == NOTHING and f.open_links[flow + link] and not f.links[link].control:
            s.stages[f.links[link].head].fits = NO_LIMIT
    for at in range(len(f.by_stop)):
        stage = f.by_stop[at]
        row = s.stages[stage]
        fits = min(row.fits, most_on(f, r, stage)) if row.up else 0
        for link in range(len(f.links) if fits else 0):
            if f.links[link].tail == stage and f.open_links[flow + link] and not f.links[link].control:
                if f.links[link].head == NOTHING:
                    found = max(found, fits)
                else:
                    head = s.stages[f.links[link].head]
                    head.fits = max(head.fits, fits)
    return found


@inlined
def most_on(f: Fixed, r: Rules, stage: int) -> int:
    """Tokens of the largest request that fits a stage."""
    row = f.stages[stage]
    room, few = row.capacity // row.width, held_tokens(NO_LIMIT, row.window, r.prefill_chunk, r.page_tokens)
    if room < few:
        return room
    whole = row.width - row.windowed
    return (row.capacity - row.windowed * few) // whole if whole else NO_LIMIT


def any_hop_up(f: Fixed, s: State, r: Rules, vertex: int) -> bool:
    """Whether a request may go anywhere from a vertex."""
    for at in range(vertex * r.fanout, (vertex + 1) * r.fanout):
        link = f.next_link[at]
        if link == NOTHING:
            return False
        if f.links[link].head == NOTHING or s.stages[f.links[link].head].up:
            return True
    return False
