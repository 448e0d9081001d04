"""Who is let in, and when: requests arrive or are drawn, wait, and start when there is room."""

from __future__ import annotations

from helix_df.rules.admission import STRANDED, WAITS, expected_kv, on_arrival
from helix_df.rules.batching import piece_tokens
from helix_df.rules.waiting_order import waiting_rank
from helix_df.simulator.kernel.asking import ASKS_HOP, ASKS_PATH, NEEDS_ROOM, NO_QUESTION, show_all, show_hop
from helix_df.simulator.kernel.events import ARRIVAL, FEED, OPEN, schedule
from helix_df.simulator.kernel.failures import reject, strand
from helix_df.simulator.kernel.links import send_piece
from helix_df.simulator.kernel.marks import inlined
from helix_df.simulator.kernel.outbox import post_piece
from helix_df.simulator.kernel.paths import (
    any_hop_up,
    find_path,
    fullest_layer,
    has_room,
    join_hop,
    own_path,
    path_of,
    reserve,
)
from helix_df.simulator.kernel.runs import new_run
from helix_df.simulator.kernel.tables import (
    BY_ASKING,
    BY_KV,
    HOLD,
    NOTHING,
    SATURATE,
    Fixed,
    Rules,
    State,
)

STARTED, HAS_TO_WAIT, UNANSWERED = 0, 1, 2
"""What becomes of a request whose turn it is."""

NAN = float("nan")


def open_up(s: State, r: Rules, first_s: float) -> None:
    """The first arrivals; ``first_s`` is the trace's first."""
    if not r.saturating:
        schedule(s, first_s, ARRIVAL, 0, 0)
    elif r.feed == SATURATE:
        schedule(s, 0.0, OPEN, 0, 0)
    else:
        for number in range(r.feed_initial):
            schedule(s, number * r.feed_spacing_s, FEED, 0, 0)


def draw(f: Fixed, s: State) -> int:
    """The next request of the trace, from the beginning again at its end."""
    c = s.counts[0]
    request = c.requests
    c.requests += 1
    row = s.requests[request]
    row.wanted = c.drawn % len(f.requests)
    c.drawn += 1
    row.arrived_s = c.now_s
    row.attempt = NOTHING
    row.admitted_s = row.first_token_s = row.last_token_s = row.finished_s = NAN
    return request


def submit(f: Fixed, s: State, r: Rules) -> None:
    """A request arrives: it joins the queue, waits for nodes, or is rejected."""
    c, request = s.counts[0], draw(f, s)
    most = f.requests[s.requests[request].wanted].most
    whole = c.largest_whole if r.messages else 0
    verdict = on_arrival(True, most <= c.largest, most <= whole, c.waiting + c.stranded, r.max_queue, True)
    if verdict == WAITS:
        wait(f, s, r, request)
        c.admitting = True
    elif verdict == STRANDED:
        strand(s, r, request)
    else:
        reject(s, request)


def wait(f: Fixed, s: State, r: Rules, request: int) -> None:
    """Into the queue, behind all whose rank isn't higher: in order of arrival that is the end."""
    c, row, size = s.counts[0], s.requests[request], len(s.waiting)
    row.rank = waiting_rank(row.arrived_s, f.requests[row.wanted].inputs, r.shortest_first)
    at = c.waiting
    while at > 0:
        other = s.waiting[(c.first_waiting + at - 1) % size]
        if s.requests[other].rank <= row.rank:
            break
        s.waiting[(c.first_waiting + at) % size] = other
        at -= 1
    s.waiting[(c.first_waiting + at) % size] = request
    c.waiting += 1


@inlined
def next_waiting(s: State) -> None:
    """The first of the queue has left it."""
    c = s.counts[0]
    c.first_waiting = (c.first_waiting + 1) % len(s.waiting)
    c.waiting -= 1


def schedule_arrival(f: Fixed, s: State, r: Rules) -> None:
    """The trace's next request, if it comes before the end."""
    drawn = s.counts[0].drawn
    if drawn < len(f.requests) and f.requests[drawn].arrival_s <= r.end_s:
        schedule(s, f.requests[drawn].arrival_s, ARRIVAL, 0, 0)


def feed_more(f: Fixed, s: State, r: Rules, ended: bool) -> None:
    """Another request comes, if a feed that looks at requests under way now wants one; ``ended``: one has ended."""
    if not r.saturating or r.feed == SATURATE:
        return
    if (r.feed == HOLD and ended) or (r.feed == BY_KV and fullest_layer(f, s) <= r.feed_below):
        schedule(s, s.counts[0].now_s + r.feed_delay_s, FEED, 0, 0)


def admit(f: Fixed, s: State, r: Rules) -> int:
    """Start waiting requests, the lowest rank first, for as long as pipelines have room.

    A question to the router, if there is one; then it goes on from there when it is called again.
    """
    c, saturate = s.counts[0], r.saturating and r.feed == SATURATE
    while c.path_up:
        if c.waiting == 0:
            if not saturate or r.messages:
                break
            if c.requests >= c.room_requests:
                return NEEDS_ROOM
            request = draw(f, s)
            if f.requests[s.requests[request].wanted].most <= c.largest:
                wait(f, s, r, request)
                continue
            reject(s, request)
            if c.drawn > 2 * len(f.requests):
                break
            continue
        request = s.waiting[c.first_waiting]
        if not has_tables(f, s, r, request):
            return NEEDS_ROOM
        found = try_to_start(f, s, r, request)
        if found == UNANSWERED:
            return ASKS_HOP if r.by_hop else ASKS_PATH
        if found == STARTED:
            next_waiting(s)
        elif (r.drops and not saturate) or (c.active == 0 and c.joins_left == 0):
            # It would be dropped, or nothing runs that could end, and no node will join.
            next_waiting(s)
            reject(s, request)
        else:
            break
    return NO_QUESTION


def draw_next(f: Fixed, s: State, r: Rules) -> bool:
    """Where a next request waits at all times: let one wait if none does; whether there may be more to draw."""
    c = s.counts[0]
    if not r.saturating or r.feed != SATURATE or c.waiting or not c.path_up:
        return False
    request = draw(f, s)
    most = f.requests[s.requests[request].wanted].most
    verdict = on_arrival(True, most <= c.largest, most <= c.largest_whole, c.waiting + c.stranded, r.max_queue, True)
    if verdict == WAITS:
        wait(f, s, r, request)
        c.admitting = True
        return True
    if verdict == STRANDED:
        strand(s, r, request)
    else:
        reject(s, request)
    return c.drawn <= 2 * len(f.requests)


def tokens_now(f: Fixed, s: State, request: int) -> int:
    """Tokens that a request has: its prompt and what it has been given."""
    return f.requests[s.requests[request].wanted].inputs + s.requests[request].generated


def has_tables(f: Fixed, s: State, r: Rules, request: int) -> bool:
    """Whether tables have the rows for another attempt."""
    c = s.counts[0]
    pieces = tokens_now(f, s, request) // max(1, r.prefill_chunk - 1) + 2
    c.needed = pieces
    return (
        c.attempts < c.room_attempts
        and c.paths < c.room_paths
        and c.branches < c.room_branches
        and c.kinds < c.room_kinds
        and c.afloat + pieces < c.room_afloat
        and c.queued + 4 * (c.afloat + pieces) < c.room_events
    )


def try_to_start(f: Fixed, s: State, r: Rules, request: int) -> int:
    """Start a request if there is a pipeline for it."""
    c, row = s.counts[0], s.requests[request]
    wanted, tokens = f.requests[row.wanted], tokens_now(f, s, request)
    if r.by_hop:
        if c.answer == NOTHING:
            if not any_hop_up(f, s, r, 0):
                return HAS_TO_WAIT
            show_hop(f, s, r, 0, tokens)
            return UNANSWERED
        path = own_path(s, r)
        join_hop(f, s, r, path, c.answer)
        c.answer = NOTHING
        start(f, s, r, request, path, 0)
        return STARTED
    expected = expected_kv(tokens, wanted.inputs, wanted.answer, wanted.most, row.worst_case)
    if r.routes != BY_ASKING:
        path = find_path(f, s, r, expected, wanted.most, tokens)
    elif c.answer == NOTHING:
        for stage in range(len(f.stages)):
            s.stages[stage].eligible = has_room(f, s, r, stage, expected, wanted.most)
        show_all(f, s, r, request, tokens)
        return UNANSWERED
    else:
        path = path_of(f, s, r, c.answer) if c.answer else NOTHING
        c.answer = NOTHING
    if path == NOTHING:
        return HAS_TO_WAIT
    start(f, s, r, request, path, expected)
    return STARTED


def start(f: Fixed, s: State, r: Rules, request: int, path: int, expected: int) -> None:
    """Send a request on its way, its prompt piece by piece."""
    c, row, attempt = s.counts[0], s.requests[request], s.counts[0].attempts
    c.attempts += 1
    row.attempt = attempt
    new = s.attempts[attempt]
    new.request, new.path, new.prompt = request, path, tokens_now(f, s, request)
    new.left = f.requests[row.wanted].outputs - row.generated
    new.expected, new.alive, new.batch = expected, True, NOTHING
    new.acceptance, new.drafts, new.sent, new.expects = c.acceptance, 0, 0, 0
    new.last_s = row.last_token_s if row.attempts and row.generated else c.now_s
    if row.attempts == 0:
        row.admitted_s = c.now_s
    row.attempts += 1
    c.active += 1
    reserve(f, s, r, path, expected)
    link = s.leaves_by[path * r.vertices]
    if r.micro_batches and not r.messages:
        s.kind_requests[s.paths[path].kind * len(f.stages) + f.links[link].head] += 1
    left = new.prompt
    while left > 0:
        size = piece_tokens(left, r.prefill_chunk)
        left -= size
        new.flying += 1
        if r.messages:
            post_new_piece(s, link, attempt, new.prompt - left - size, size, left == 0)
        else:
            send_piece(f, s, link, attempt, size, left == 0)
    c.afloat += new.flying


def post_new_piece(s: State, link: int, attempt: int, start: int, tokens: int, ends: bool) -> None:
    """A piece of a prompt on its way from the coordinator."""
    run = new_run(s)
    row = s.runs[run]
    row.first, row.start, row.tokens, row.ends = attempt, start, tokens, ends
    post_piece(s, link, run, tokens)
