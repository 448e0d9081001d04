"""What follows when a step finds no room in the KV cache, or a node goes down or joins."""

from __future__ import annotations

from helix_df.rules.retries import backoff_s, gives_up
from helix_df.rules.waiting_order import GOES_BEFORE_ALL
from helix_df.simulator.kernel.arrivals import take_arrived
from helix_df.simulator.kernel.events import GIVE_UP, OPEN, RETRY, WAKE, schedule
from helix_df.simulator.kernel.hearing import BEGUN, forget, place_of
from helix_df.simulator.kernel.micro import back, first_stage
from helix_df.simulator.kernel.outbox import lose, post_release
from helix_df.simulator.kernel.paths import forget_paths, go_by, largest_up, reserve
from helix_df.simulator.kernel.runs import enqueue, free_run
from helix_df.simulator.kernel.tables import DECODES, NEVER, NOTHING, Fixed, Rules, State

MOST_ATTEMPTS = 50
"""After so many the paper's artifact's rules give a request up."""


def leave(f: Fixed, s: State, r: Rules, attempt: int) -> None:
    """Free what an attempt holds for the tokens that every stage has; the request keeps its tokens."""
    c, row = s.counts[0], s.attempts[attempt]
    path, request = row.path, s.requests[row.request]
    reserve(f, s, r, path, -row.expected)
    c.active -= 1
    request.generated = f.requests[request.wanted].outputs - row.left
    request.last_token_s = row.last_s
    if r.messages:
        release(f, s, r, attempt)
        return
    for at in range(path * r.vertices, path * r.vertices + s.paths[path].hops):
        hop = s.hops[at]
        stage = s.stages[f.links[hop.link].head]
        if stage.epoch == hop.epoch:
            stage.kv_used -= row.confirmed * hop.weight
    if r.micro_batches:
        leave_batches(f, s, r, attempt)


def release(f: Fixed, s: State, r: Rules, attempt: int) -> None:
    """Tell all stages of an attempt that are up that it is over."""
    path = s.attempts[attempt].path
    for at in range(path * r.vertices, path * r.vertices + s.paths[path].hops):
        stage = f.links[s.hops[at].link].head
        if s.stages[stage].up:
            post_release(s, f.to_stage[stage], attempt)


def leave_batches(f: Fixed, s: State, r: Rules, attempt: int) -> None:
    """An attempt decodes no more where it entered; its batch is back, for which others may have waited."""
    back(s, attempt)
    stage, now_s = first_stage(f, s, r, attempt), s.counts[0].now_s
    s.kind_requests[s.paths[s.attempts[attempt].path].kind * len(f.stages) + stage] -= 1
    row = s.stages[stage]
    if s.queues[stage * r.layers * 2 + DECODES].first != NOTHING and not row.busy and now_s < row.wake_s:
        row.wake_s = now_s
        schedule(s, now_s, WAKE, stage, 0)


def kill(f: Fixed, s: State, r: Rules, attempt: int) -> None:
    """End an attempt whose steps are still on their way."""
    leave(f, s, r, attempt)
    s.attempts[attempt].alive = False
    s.counts[0].dead += s.attempts[attempt].flying


def start_over(f: Fixed, s: State, r: Rules, request: int, unlucky: bool) -> None:
    """A request goes back to the head of the queue, with the tokens it has.

    At once when a node was lost. When it was ``unlucky``, since it found no room or no way, it waits longer each time
    and is given up in the end.
    """
    c, row = s.counts[0], s.requests[request]
    if r.by_hop and f.requests[row.wanted].most > c.largest:
        strand(s, r, request)  # a node was lost that it hadn't come to yet
        return
    if not r.backs_off:
        if row.attempts >= MOST_ATTEMPTS:
            reject(s, request)
        else:
            put_back(s, request)
        return
    if not unlucky:
        put_back(s, request)
        return
    row.rejections += 1
    if gives_up(row.rejections):
        reject(s, request)
    else:
        c.delayed += 1
        row.delayed = True
        row.due_s = c.now_s + backoff_s(row.rejections)
        schedule(s, row.due_s, RETRY, request, 0)


def put_back(s: State, request: int) -> None:
    """To the head of the queue."""
    c = s.counts[0]
    s.requests[request].rank = GOES_BEFORE_ALL
    c.first_waiting = (c.first_waiting - 1) % len(s.waiting)
    s.waiting[c.first_waiting] = request
    c.waiting += 1


def reject(s: State, request: int) -> None:
    """A request is refused or given up."""
    s.requests[request].rejected = True
    s.counts[0].rejected += 1


def drop(f: Fixed, s: State, r: Rules, attempt: int, tokens: int, stage: int, inclusive: bool) -> None:
    """Forget a step of a dead attempt: stages before ``stage`` (with ``inclusive``, it too) held its tokens."""
    c, row = s.counts[0], s.attempts[attempt]
    for at in range(row.path * r.vertices, row.path * r.vertices + s.paths[row.path].hops):
        hop = s.hops[at]
        here = f.links[hop.link].head
        if here == stage and not inclusive:
            break
        if s.stages[here].epoch == hop.epoch:
            s.stages[here].kv_used -= tokens * hop.weight
        if here == stage:
            break
    c.dead -= 1
    c.afloat -= 1
    row.flying -= 1
    free_path(s, r, attempt)


def free_path(s: State, r: Rules, attempt: int) -> None:
    """A pipeline that was found hop by hop can be used again when nothing of its attempt is on its way."""
    row = s.attempts[attempt]
    if r.by_hop and row.flying == 0:
        s.paths[row.path].turn = s.counts[0].free_path
        s.counts[0].free_path = row.path


def living(f: Fixed, s: State, r: Rules, first: int, steps: int, stage: int, inclusive: bool) -> tuple[int, int, int]:
    """The steps of attempts that are alive: first, last and how many."""
    head, last, count, attempt = NOTHING, NOTHING, 0, first
    for _ in range(steps):
        after = s.attempts[attempt].step_next
        if not s.attempts[attempt].alive:
            drop(f, s, r, attempt, 1, stage, inclusive)
        else:
            if count == 0:
                head = attempt
            else:
                s.attempts[last].step_next = attempt
            last = attempt
            s.attempts[last].step_next = NOTHING
            count += 1
        attempt = after
    return head, last, count


def purge(f: Fixed, s: State, r: Rules, stage: int) -> None:
    """Forget the steps of dead attempts that wait on a stage."""
    take_arrived(f, s, r, stage)
    layered = f.stages[stage].layered
    for kind in range(2):
        for layer in range(f.stages[stage].width if layered else 1):
            queue = s.queues[(stage * r.layers + layer) * 2 + kind]
            run = queue.first
            queue.first = queue.last = NOTHING
            while run != NOTHING:
                after = s.runs[run].next
                entered = layered and layer > f.links[s.runs[run].link].skipped
                if keep_living(f, s, r, stage, run, entered):
                    enqueue(s, r, stage, layer, run)
                else:
                    free_run(s, run)
                run = after


def keep_living(f: Fixed, s: State, r: Rules, stage: int, run: int, inclusive: bool) -> bool:
    """Leave a run what is of attempts that are alive; whether that is anything."""
    row = s.runs[run]
    if row.tokens:
        if s.attempts[row.first].alive:
            return True
        drop(f, s, r, row.first, row.tokens, stage, inclusive)
        return False
    row.first, row.last, row.steps = living(f, s, r, row.first, row.steps, stage, inclusive)
    return row.steps > 0


def refuse(f: Fixed, s: State, r: Rules, stage: int, run: int) -> None:
    """A step found the KV cache full: its request starts over elsewhere, and more carefully."""
    attempt = s.runs[run].first
    tokens = s.runs[run].tokens if s.runs[run].tokens else 1
    free_run(s, run)
    if not s.attempts[attempt].alive:
        drop(f, s, r, attempt, tokens, stage, False)
        return
    kill(f, s, r, attempt)
    request = s.attempts[attempt].request
    s.requests[request].worst_case = True
    drop(f, s, r, attempt, tokens, stage, False)
    start_over(f, s, r, request, True)
    schedule(s, s.counts[0].now_s, OPEN, 0, 0)


def passes(f: Fixed, s: State, r: Rules, attempt: int, stage: int) -> bool:
    """Whether an attempt's pipeline leads through a stage."""
    path = s.attempts[attempt].path
    for at in range(path * r.vertices, path * r.vertices + s.paths[path].hops):
        if f.links[s.hops[at].link].head == stage:
            return True
    return False


def node_down(f: Fixed, s: State, r: Rules, stage: int, flow: int) -> None:
    """A node is gone, and what it held with it: its requests start over with the tokens they have, by the flow over
    what is left."""
    c = s.counts[0]
    if not s.stages[stage].up:
        return
    go_by(s, r, flow)
    if r.messages:
        end_all_through(f, s, r, stage)
    else:
        kill_all_through(f, s, r, stage)
    run = s.stages[stage].batch_first
    take_down(f, s, r, stage)
    lose_chain(f, s, r, stage, run)
    lose_chain(f, s, r, stage, s.stages[stage].inbox_first)
    s.stages[stage].inbox_first = s.stages[stage].inbox_last = NOTHING
    for at in range(stage * r.layers * 2, (stage + 1) * r.layers * 2):
        lose_chain(f, s, r, stage, s.queues[at].first)
        s.queues[at].first = s.queues[at].last = NOTHING
    c.largest = largest_up(f, s, r)
    c.path_up = c.largest > 0
    if r.messages:
        regroup(f, s, r)
    elif not c.path_up:
        set_aside(f, s, r)
    c.admitting = c.drawing = True


def kill_all_through(f: Fixed, s: State, r: Rules, stage: int) -> None:
    """End what leads through a stage that is gone."""
    for attempt in range(s.counts[0].attempts - 1, -1, -1):
        if s.attempts[attempt].alive and passes(f, s, r, attempt, stage):
            kill(f, s, r, attempt)
            start_over(f, s, r, s.attempts[attempt].request, False)


def end_all_through(f: Fixed, s: State, r: Rules, stage: int) -> None:
    """End what leads through a stage that is gone, and forget all that it knew."""
    c = s.counts[0]
    s.stages[stage].up = False
    for request in range(c.requests - 1, -1, -1):
        attempt = s.requests[request].attempt
        if attempt != NOTHING and s.attempts[attempt].alive and passes(f, s, r, attempt, stage):
            leave(f, s, r, attempt)
            s.attempts[attempt].alive = False
            c.dead += s.attempts[attempt].flying
            start_over(f, s, r, request, False)
    for attempt in range(c.attempts):
        if passes(f, s, r, attempt, stage) and s.holds[place_of(s, r, attempt, stage)] >= BEGUN:
            forget(f, s, r, attempt, stage)


def lose_all(s: State, run: int) -> None:
    """Nobody will hear of a chain of runs."""
    while run != NOTHING:
        after = s.runs[run].next
        lose(s, run)
        run = after


def lose_chain(f: Fixed, s: State, r: Rules, stage: int, run: int) -> None:
    """Forget a chain of runs of a node that is gone."""
    if r.messages:
        lose_all(s, run)
        return
    while run != NOTHING:
        after = s.runs[run].next
        keep_living(f, s, r, stage, run, False)
        free_run(s, run)
        run = after


def take_down(f: Fixed, s: State, r: Rules, stage: int) -> None:
    """The rest of a node's batch is never computed, and its cache is empty."""
    row = s.stages[stage]
    if row.busy:
        row.busy_s -= row.busy_until_s - s.counts[0].now_s
    row.up = row.busy = False
    row.batch_first = NOTHING
    row.epoch += 1
    row.wake_s = NEVER
    row.received = row.kv_used = 0
    forget_paths(f, s, r, stage)


def set_aside(f: Fixed, s: State, r: Rules) -> None:
    """Let those not wait with the others who fit no pipeline that is left, since all others would wait behind them."""
    c, left = s.counts[0], 0
    for index in range(c.waiting):
        request = s.waiting[(c.first_waiting + index) % len(s.waiting)]
        if f.requests[s.requests[request].wanted].most > c.largest:
            strand(s, r, request)
        else:
            s.waiting[(c.first_waiting + left) % len(s.waiting)] = request
            left += 1
    c.waiting = left
    for request in range(c.requests if c.delayed else 0):
        row = s.requests[request]
        if row.delayed and f.requests[row.wanted].most > c.largest:
            c.delayed -= 1
            row.delayed = False
            strand(s, r, request)


def regroup(f: Fixed, s: State, r: Rules) -> None:
    """Set those aside who fit nothing that is up, and put those back to the head of the queue, in the order of their
    arrival, who do again."""
    c = s.counts[0]
    set_aside(f, s, r)
    for request in range(c.requests - 1 if c.stranded else -1, -1, -1):
        if s.requests[request].stranded and f.requests[s.requests[request].wanted].most <= c.largest:
            c.stranded -= 1
            s.requests[request].stranded = False
            put_back(s, request)


def strand(s: State, r: Rules, request: int) -> None:
    """Let a request wait for nodes, for so long as the job says; by the artifact's rules it is rejected."""
    if not r.messages:
        reject(s, request)
        return
    c, row = s.counts[0], s.requests[request]
    c.stranded += 1
    row.stranded = True
    row.due_s = c.now_s + r.patience_s
    schedule(s, row.due_s, GIVE_UP, request, 0)


def give_up(s: State, request: int) -> None:
    """A request has waited for nodes for too long."""
    c, row = s.counts[0], s.requests[request]
    if row.stranded and row.due_s == c.now_s:
        c.stranded -= 1
        row.stranded = False
        reject(s, request)


def node_up(f: Fixed, s: State, r: Rules, stage: int, flow: int) -> None:
    """A node joins, with an empty cache; requests go by the flow that it makes possible."""
    c = s.counts[0]
    c.joins_left -= 1
    if s.stages[stage].up:
        return
    s.stages[stage].up = True
    go_by(s, r, flow)
    c.largest = largest_up(f, s, r)
    c.path_up = c.largest > 0
    if r.messages:
        regroup(f, s, r)
    elif flow:
        set_aside(f, s, r)
    c.admitting = c.drawing = True


def retry(s: State, request: int) -> None:
    """A request that waited for room to come is back in the queue."""
    c, row = s.counts[0], s.requests[request]
    if not row.delayed or row.due_s != c.now_s:
        return
    c.delayed -= 1
    row.delayed = False
    put_back(s, request)
    c.admitting = c.drawing = True
