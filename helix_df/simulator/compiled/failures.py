"""What follows when a step finds no room in the KV cache."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

from helix_df.simulator.compiled.batches import take_arrived
from helix_df.simulator.compiled.entrance import back, first_stage
from helix_df.simulator.compiled.events import OPEN, WAKE, at
from helix_df.simulator.compiled.jit import compiled
from helix_df.simulator.compiled.plant import NOTHING
from helix_df.simulator.compiled.runs import enqueue, free_run
from helix_df.simulator.compiled.state import ACTIVE, DEAD, DECODES, FIRST_WAITING, PROMPTS, REJECTED, WAITING
from helix_df.simulator.compiled.ways import reserve
from helix_df.simulator.door import MOST_ATTEMPTS


@compiled
def leave(p, s, r, attempt):
    """Free what an attempt holds for the tokens that every stage has; the request keeps its tokens."""
    path, request = s.tries[attempt].path, s.tries[attempt].job
    reserve(p, s, r, path, -s.tries[attempt].expected)
    s.counts[ACTIVE] -= 1
    for hop in range(s.paths[path].hops):
        s.stages[p.links[s.hops[path, hop].link].head].kv_used -= s.tries[attempt].confirmed * s.hops[path, hop].weight
    if r.micro_batches:
        stage = first_stage(p, s, attempt)
        back(s, attempt, stage)
        s.kind_requests[stage, s.paths[path].kind] -= 1
        if (
            s.queue_first[stage, 0, DECODES] != NOTHING
            and not s.stages[stage].busy
            and s.now[0] < s.stages[stage].wake_s
        ):
            s.stages[stage].wake_s = s.now[0]
            at(s, s.now[0], WAKE, stage, 0)
    s.requests[request].generated = p.wanted[s.requests[request].wanted].outputs - s.tries[attempt].left
    s.requests[request].last_token_s = s.tries[attempt].last_s


@compiled
def drop(p, s, attempt, tokens, stage, inclusive):
    """Forget a step of a dead attempt: stages before ``stage`` (with ``inclusive``, it too) held its tokens."""
    s.counts[DEAD] -= 1
    path = s.tries[attempt].path
    for hop in range(s.paths[path].hops):
        here = p.links[s.hops[path, hop].link].head
        if here == stage and not inclusive:
            return
        s.stages[here].kv_used -= tokens * s.hops[path, hop].weight
        if here == stage:
            return


@compiled
def living(p, s, first, steps, stage, inclusive):
    """The steps of attempts that are alive: first, last and how many."""
    head, last, count, attempt = NOTHING, NOTHING, 0, first
    for _ in range(steps):
        after = s.tries[attempt].step_next
        if not s.tries[attempt].alive:
            drop(p, s, attempt, 1, stage, inclusive)
        else:
            if count == 0:
                head = attempt
            else:
                s.tries[last].step_next = attempt
            last = attempt
            s.tries[last].step_next = NOTHING
            count += 1
        attempt = after
    return head, last, count


@compiled
def purge(p, s, r, stage):
    """Forget the steps of dead attempts that wait on a stage."""
    take_arrived(p, s, r, stage)
    for kind in range(2):
        for layer in range(p.stages[stage].width if p.stages[stage].layered else 1):
            run = s.queue_first[stage, layer, kind]
            s.queue_first[stage, layer, kind] = s.queue_last[stage, layer, kind] = NOTHING
            while run != NOTHING:
                after = s.runs[run].next
                entered = p.stages[stage].layered and layer > p.links[s.runs[run].link].skipped
                if kind == PROMPTS:
                    if s.tries[s.runs[run].first].alive:
                        enqueue(s, stage, layer, run)
                    else:
                        drop(p, s, s.runs[run].first, s.runs[run].tokens, stage, entered)
                        free_run(s, run)
                else:
                    first, last, steps = living(p, s, s.runs[run].first, s.runs[run].steps, stage, entered)
                    s.runs[run].first, s.runs[run].last, s.runs[run].steps = first, last, steps
                    if steps:
                        enqueue(s, stage, layer, run)
                    else:
                        free_run(s, run)
                run = after


@compiled
def refuse(p, s, r, stage, run):
    """A step found the KV cache full: its request starts over elsewhere, and more carefully."""
    attempt = s.runs[run].first
    tokens = s.runs[run].tokens if s.runs[run].tokens else 1
    free_run(s, run)
    if not s.tries[attempt].alive:
        drop(p, s, attempt, tokens, stage, False)
        return
    leave(p, s, r, attempt)
    s.tries[attempt].alive = False
    s.counts[DEAD] += s.tries[attempt].flying
    request = s.tries[attempt].job
    s.requests[request].cautious = True
    drop(p, s, attempt, tokens, stage, False)
    if s.requests[request].attempts >= MOST_ATTEMPTS:
        s.counts[REJECTED] += 1
    else:
        s.counts[FIRST_WAITING] = (s.counts[FIRST_WAITING] - 1) % len(s.waiting)
        s.waiting[s.counts[FIRST_WAITING]] = request
        s.counts[WAITING] += 1
    at(s, s.now[0], OPEN, 0, 0)
