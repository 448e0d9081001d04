"""The simulator is the runtime: the real state machines in virtual time give the same tokens at the same times."""

from __future__ import annotations

import os
from collections.abc import Callable
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from helix_df.rules import retries
from helix_df.runtime.coordinator import requests_state
from helix_df.runtime.wire import pacing
from helix_df.runtime.worker import state as worker_state
from helix_df.runtime.worker.kv_pages import PagePool
from helix_df.simulator.kernel import admission, batches, build, drafts, micro, outbox, paths, seconds
from helix_df.simulator.kernel.tables import Fixed, Rules, State
from property_tests.virtual_cases import Case, cases
from property_tests.virtual_time import SAME_S, Told, VirtualJob

pytestmark = pytest.mark.no_cover
"""Thousands of small simulations take several times as long while lines are counted; other tests cover the same."""

EXAMPLES = int(os.environ.get("HELIX_DF_EXAMPLES", "1000"))
"""More of them once in a while: HELIX_DF_EXAMPLES=20000."""


def same(case: Case) -> None:
    """Compare token by token, up to the first moment at which rounding decides what comes first."""
    with patch.object(retries, "MOST_REJECTIONS", case.most_rejections):
        job = case.runtime()
        theirs, ours = job.told, case.simulator()
    until_s = job.tie_s - SAME_S
    assert len(before(theirs, until_s)) == len(before(ours, until_s)), "requests"
    for number, (one, other) in enumerate(zip(before(theirs, until_s), ours, strict=False)):
        assert abs(one.arrived_s - other.arrived_s) <= SAME_S, f"r{number} arrived"
        here, there = (tuple(time_s for time_s in told.tokens_s if time_s < until_s) for told in (one, other))
        for at, (mine, yours) in enumerate(zip(here, there, strict=False)):
            assert abs(mine - yours) <= SAME_S, f"token {at} of r{number}: {mine} in the runtime, {yours} here"
        assert len(here) == len(there), f"tokens of r{number}"
        if until_s > case.end_s:
            assert (one.finished, one.rejected) == (other.finished, other.rejected), f"end of r{number}"


def before(told: list[Told], until_s: float) -> list[Told]:
    """Requests that arrived before."""
    return [one for one in told if one.arrived_s < until_s]


@settings(max_examples=EXAMPLES)
@given(cases())
def test_same_tokens_at_the_same_times(case):
    same(case)


FAULTS: dict[str, tuple[object, str, Callable[..., Callable[..., object]]]] = {
    "the worker takes one more prompt token a batch": (
        worker_state,
        "takes_piece",
        lambda right: (
            lambda tokens, again, room, decodes, taken, budget: right(tokens, again, room, decodes, taken, budget + 1)
        ),
    ),
    "the worker's engine holds one more page": (
        VirtualJob,
        "_join",
        lambda right: lambda job, node: _with_one_more_page(right, job, node),
    ),
    "the coordinator waits longer before another try": (
        requests_state,
        "backoff_s",
        lambda right: lambda rejections: 1.1 * right(rejections),
    ),
    "the simulator expects another use of KV cache": (
        admission,
        "expected_kv",
        lambda right: lambda *given: right(*given) + 1,
    ),
    "the simulator's shortest prompts go last": (
        admission,
        "waiting_rank",
        lambda right: lambda arrived_s, prompt, shortest_first: right(arrived_s, -prompt, shortest_first),
    ),
    "the simulator frees nothing behind windows": (batches, "slide", lambda _: lambda *_: None),
    "the simulator counts windowed caches whole": (
        paths,
        "held_tokens",
        lambda _: lambda tokens, window, piece, page_tokens: tokens,
    ),
    "the simulator's micro-batches are larger": (micro, "batch_share", lambda right: lambda total: right(total) + 1),
    "the simulator's stages hear of ends at once": (
        outbox,
        "cross",
        lambda right: lambda f, s, link, tokens, headers: _at_once(right, f, s, link, tokens, headers),
    ),
    "the simulator's prompts go with decode steps": (build, "goes_apart", lambda _: lambda *_: False),
    "the simulator keeps to the plan's flow when a node is down": (
        build,
        "mended_flow",
        lambda _: lambda ways, planned, is_up: planned,
    ),
    "the simulator's coordinator learns nothing from drafts": (
        drafts,
        "learned_acceptance",
        lambda _: lambda acceptance, drafted, accepted: acceptance,
    ),
    "the simulator computes drafts in no time": (
        seconds,
        "carried",
        lambda _: lambda s, r, run: s.runs[run].steps,
    ),
    "the simulator's workers compute no drafts": (
        batches,
        "drafted_fits",
        lambda right: lambda f, s, r, stage, attempt: _without_drafts(right, f, s, r, stage, attempt),
    ),
    "nothing passes on the simulator's links": (outbox, "passes", lambda _: lambda *_: False),
    "emulated links let prompts wait for ever": (pacing, "passes", lambda _: lambda *_: True),
}


def _without_drafts(right: Callable[..., bool], f: Fixed, s: State, r: Rules, stage: int, attempt: int) -> bool:
    s.attempts[attempt].drafts = 0
    return right(f, s, r, stage, attempt)


def _with_one_more_page(right: Callable[..., object], job: VirtualJob, node: str) -> object:
    actions = right(job, node)
    worker = job._worker_of(node)
    assert worker is not None
    pool = worker.engine.pool
    worker.engine.pool = PagePool(pool.num_pages + 1, job.page_tokens, pool.windows)
    return actions


def _at_once(
    right: Callable[..., tuple[float, float]], f: Fixed, s: State, link: int, tokens: int, headers: int
) -> tuple[float, float]:
    arrive_s, sent_s = right(f, s, link, tokens, headers)
    return (arrive_s if tokens else s.counts[0].now_s), sent_s


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_on_either_side_is_found(fault, monkeypatch):
    place, name, wrong = FAULTS[fault]
    monkeypatch.setattr(place, name, wrong(getattr(place, name)))

    @settings(
        max_examples=max(EXAMPLES, 500), phases=[Phase.generate], suppress_health_check=list(HealthCheck), database=None
    )
    @given(cases())
    def fails(case):
        same(case)

    with pytest.raises(AssertionError):
        fails()
