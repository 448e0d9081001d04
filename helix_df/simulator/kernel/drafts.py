"""Drafted tokens: how many a step carries, which of them are right, and what the coordinator learns from that.

As in the runtime's coordinator (``coordinator.drafting``), but for what a drafter finds in a text: whether there are
drafts for a step, and whether a drafted token is right, is drawn from seed, request and position alone. So it doesn't
depend on routes, batches or how many are drafted, and a higher acceptance never makes a right one wrong.
"""

from __future__ import annotations

from helix_df.rules.speculation import draft_tokens, learned_acceptance
from helix_df.simulator.kernel.marks import inlined
from helix_df.simulator.kernel.tables import Fixed, Rules, State

TIMED_TOKENS = 16
"""Tokens of the prompt that a worker times before it serves, by which the coordinator knows what a token more takes."""

_BITS = 0xFFFFFFFF


def drawn_share(seed: int, request: int, position: int, salt: int) -> float:
    """A number from 0 up to 1 that these four decide, as if drawn at random.

    The mixing is that of Wellons' ``lowbias32`` hash; 32 bits at a time, so that whole numbers of 64 are enough.
    """
    mixed = 0
    for part in (seed, request, position, salt):
        mixed = (mixed ^ part) & _BITS
        mixed = ((mixed ^ (mixed >> 16)) * 0x7FEB352D) & _BITS
        mixed = ((mixed ^ (mixed >> 15)) * 0x846CA68B) & _BITS
        mixed = ((mixed ^ (mixed >> 16)) + 0x9E3779B9) & _BITS
    return mixed / 4294967296.0


def has_drafts(seed: int, request: int, position: int, coverage: float) -> bool:
    """Whether there are drafts for the step behind which the token at ``position`` of the answer follows."""
    return drawn_share(seed, request, position, 1) < coverage


def is_right(seed: int, request: int, position: int, acceptance: float) -> bool:
    """Whether the token that is drafted for ``position`` of the answer is right, given that those before it are."""
    return drawn_share(seed, request, position, 2) < acceptance


def draft(f: Fixed, s: State, r: Rules, attempt: int) -> None:
    """Decide how many drafted tokens the next step of an attempt carries."""
    row = s.attempts[attempt]
    wanted = f.requests[s.requests[row.request].wanted]
    generated = wanted.outputs - row.left
    row.drafts = row.sent = row.expects = 0
    most = min(r.drafts, wanted.most - wanted.inputs - generated - 1)
    if most <= 0 or not has_drafts(r.seed, row.request, generated, r.coverage):
        return
    busiest = 0
    for at in range(row.path * r.vertices, row.path * r.vertices + s.paths[row.path].hops):
        busiest = max(busiest, s.stages[f.links[s.hops[at].link].head].through)
    path = s.paths[row.path]
    rows = max(1.0, busiest / (s.kinds[path.kind].shares if r.micro_batches else 1))
    base_s = path.step_s + (rows - 1.0) * path.token_s
    row.drafts = row.sent = draft_tokens(row.acceptance, rows, base_s, path.token_s, most)
    row.expects = max(1, row.sent)


def right_drafts(f: Fixed, s: State, r: Rules, attempt: int, most: int) -> int:
    """Of the first ``most`` tokens that may be drafted for the step under way, those that are right up to a wrong one.

    The last token of an answer is nobody's draft.
    """
    row = s.attempts[attempt]
    generated = f.requests[s.requests[row.request].wanted].outputs - row.left
    right = 0
    while right < min(most, row.left - 1) and is_right(r.seed, row.request, generated + right, r.acceptance):
        right += 1
    return right


@inlined
def verify(f: Fixed, s: State, r: Rules, attempt: int) -> None:
    """A step is through its last stage: of its drafts, those that are right go home with the token behind them."""
    if s.attempts[attempt].drafts:
        s.attempts[attempt].drafts = right_drafts(f, s, r, attempt, s.attempts[attempt].drafts)


def learn(f: Fixed, s: State, r: Rules, attempt: int) -> None:
    """What the tokens that have come home say of drafts; where none was sent, of the first that might have been."""
    c, row = s.counts[0], s.attempts[attempt]
    compared = min(row.expects, row.drafts + 1)
    if compared == 0:
        return
    right = right_drafts(f, s, r, attempt, compared)
    count = min(right + 1, compared)
    row.acceptance = learned_acceptance(row.acceptance, count, right)
    if row.sent:
        c.acceptance = learned_acceptance(c.acceptance, count, right)
        c.drafted += row.sent
        c.accepted += right


def carried(s: State, r: Rules, run: int) -> int:
    """Tokens that the decode steps of a run carry."""
    steps = s.runs[run].steps
    if r.drafts == 0:
        return steps
    tokens, attempt = steps, s.runs[run].first
    for _ in range(steps):
        tokens += s.attempts[attempt].drafts
        attempt = s.attempts[attempt].step_next
    return tokens
