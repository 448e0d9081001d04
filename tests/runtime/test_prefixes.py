"""Requests that begin alike: the same answers with and without reuse, and exact accounts of who keeps what."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helix_df.graph.flow import Hop
from helix_df.layers import LayerRange
from helix_df.profiles.kv_windows import KvShape
from helix_df.rules.micro_batches import MicroBatches
from helix_df.runtime.coordinator.page_ledger import PageLedger
from helix_df.runtime.coordinator.prefix_cache import PrefixCache
from helix_df.runtime.coordinator.prefix_index import PrefixIndex
from helix_df.runtime.coordinator.seen_prompts import Parting, SeenPrompts
from helix_df.runtime.coordinator.shell import Coordinator
from helix_df.runtime.jobs.coordinators import new_coordinator
from helix_df.runtime.requests import GenerationRequest, Prefix, TokenEvent, checkpoint_name
from helix_df.runtime.sampling import SamplingParams
from helix_df.runtime.wire.messages import Forward, Rejected, Release, Route, Send
from helix_df.runtime.worker.state import Fork, Free, Trim, WorkerState
from helix_df.runtime.worker.steps import StepResult
from tests.runtime.tiny import PLACEMENT, answer, tiny_plan

ROUTE = (Hop("a", LayerRange(0, 2)), Hop("b", LayerRange(2, 4)))
NARROW = (Hop("a", LayerRange(0, 1)), Hop("b", LayerRange(1, 4)))
CHAIN = {"left": LayerRange(0, 2), "right": LayerRange(2, 4)}
COMMON = tuple((11 * position + 3) % 256 for position in range(100))


def request_of(name: str, prompt: tuple[int, ...], index: int = 1) -> GenerationRequest:
    sampling = SamplingParams(logprobs=3) if index % 2 else SamplingParams(temperature=0.9, seed=index, logprobs=3)
    return GenerationRequest(name, prompt, 12, sampling)


async def start(*, prefix_cache: bool, kv_tokens: int = 4096, placement: dict[str, LayerRange]) -> Coordinator:
    runtime = {"max_batch": 4, "max_prefill_tokens": 16, "port": 0, "prefix_cache": prefix_cache}
    coordinator = new_coordinator(tiny_plan(placement, kv_tokens=kv_tokens, runtime=runtime), embedded=True)
    await coordinator.start()
    await coordinator.wait_ready(120)
    return coordinator


@pytest.fixture
async def chain() -> AsyncIterator[Coordinator]:
    coordinator = await start(prefix_cache=True, placement=CHAIN)
    yield coordinator
    await coordinator.close()


def cached(events: list[TokenEvent]) -> int:
    assert all(event.cached_tokens == 0 for event in events[1:])
    return events[0].cached_tokens


def same(found: list[TokenEvent], expected: list[TokenEvent]) -> None:
    assert [event.token for event in found] == [event.token for event in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.logprobs is not None
        assert other.logprobs is not None
        assert one.logprobs.chosen == pytest.approx(other.logprobs.chosen, abs=1e-3)


@pytest.mark.parametrize("placement", [CHAIN, None], ids=["one route", "several routes, partial ranges"])
async def test_answers_are_those_without_reuse(placement: dict[str, LayerRange] | None) -> None:
    prompts = [(*COMMON[: 16 + 9 * index], *range(index)) for index in range(9)]
    answers: dict[bool, list[list[TokenEvent]]] = {}
    for reuse in (False, True):
        job = await start(prefix_cache=reuse, placement=placement or PLACEMENT)
        try:
            requests = [request_of(f"r{index}", prompt, index) for index, prompt in enumerate(prompts * 2)]
            one_by_one = [await answer(job, request) for request in requests[:9]]
            answers[reuse] = one_by_one + list(await asyncio.gather(*(answer(job, one) for one in requests[9:])))
            hits = job.snapshot().prefix_hits
            assert (hits > 0) == reuse
            assert job.snapshot().cached_tokens == sum(map(cached, answers[reuse]))
            assert all(node.kv_used_tokens == 0 for node in job.snapshot().nodes)
            assert any(node.kv_kept_tokens for node in job.snapshot().nodes) == reuse
        finally:
            await job.close()
    for found, expected in zip(answers[True], answers[False], strict=True):
        same(found, expected)


async def test_whole_pages_are_reused_and_something_is_left_to_compute(chain: Coordinator) -> None:
    assert cached(await answer(chain, request_of("first", COMMON[:64]))) == 0
    assert cached(await answer(chain, request_of("again", COMMON[:64]))) == 48
    assert cached(await answer(chain, request_of("longer", COMMON[:65]))) == 64
    assert cached(await answer(chain, request_of("other", (*COMMON[:40], *range(60))))) == 32
    assert cached(await answer(chain, request_of("different", (255, *COMMON[1:64])))) == 0


async def test_a_chat_goes_on_from_its_own_answer(chain: Coordinator) -> None:
    first = await answer(chain, request_of("turn1", COMMON[:40]))
    said = tuple(event.token for event in first if event.token is not None)
    # 40 + 12 tokens, the last of which was never run: 51, so three whole pages.
    assert cached(await answer(chain, request_of("turn2", (*COMMON[:40], *said, 1, 2, 3)))) == 48


async def test_a_request_begins_with_one_that_still_runs(chain: Coordinator) -> None:
    stream = chain.submit(GenerationRequest("long", COMMON[:64], 100, SamplingParams()))
    await anext(stream)
    assert cached(await answer(chain, request_of("short", COMMON[:80]))) == 64
    await stream.aclose()
    # Its pages outlive it for as long as somebody has them.
    assert cached(await answer(chain, request_of("later", COMMON[:80]))) == 64


async def test_behind_windows_many_begin_where_two_have_parted(tmp_path: Path) -> None:
    """Windows of 24 tokens, 64 common ones and 40 of their own: the first two compute all, with the same answers."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "vocab_size": 258, "head_dim": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 256, "rms_norm_eps": 1e-6}
    kind = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 24}
    (tmp_path / "config.json").write_text(json.dumps({**kind, **sizes, **heads}))
    prompts = [(*COMMON[:64], *((7 * at + 31 * index) % 256 for at in range(40))) for index in range(4)]
    found: dict[bool, list[list[TokenEvent]]] = {}
    for reuse in (False, True):
        runtime = {"max_batch": 4, "max_prefill_tokens": 16, "port": 0, "prefix_cache": reuse}
        model = {"source": f"random:{tmp_path}/config.json", "context": 256}
        job = new_coordinator(tiny_plan(CHAIN, kv_tokens=512, runtime=runtime, model=model), embedded=True)
        await job.start()
        try:
            await job.wait_ready(120)
            asked = [request_of(f"r{index}", prompt, index) for index, prompt in enumerate(prompts)]
            found[reuse] = [await answer(job, one) for one in asked]
        finally:
            await job.close()
    assert [cached(events) for events in found[True]] == [0, 0, 64, 64]
    for one, other in zip(found[True], found[False], strict=True):
        same(one, other)


async def test_what_is_kept_makes_room_for_whoever_comes() -> None:
    job = await start(prefix_cache=True, kv_tokens=128, placement=CHAIN)
    try:
        for index in range(6):
            prompt = tuple((17 * index + position) % 256 for position in range(60))
            await answer(job, request_of(f"r{index}", prompt))
            kept = {node.kv_kept_tokens for node in job.snapshot().nodes}
            assert len(kept) == 1
            assert 0 < next(iter(kept)) <= 0.9 * 128
        # One that needs all there is finds all there is.
        whole = await answer(job, GenerationRequest("whole", COMMON[:100], 28, SamplingParams()))
        assert len(whole) == 28
        assert job.snapshot().failed == 0
    finally:
        await job.close()


# ---------------------------------------------------------------------- the worker's part


def worker() -> WorkerState:
    return WorkerState("b", "home", 4, 4, 64)


def forward(request: str, position: int, count: int, prefix: Prefix | None = None) -> Forward:
    route = Route(ROUTE, ("tcp://a", "tcp://b"), SamplingParams(), MicroBatches(), prefix)
    return Forward(request, position, True, route, np.zeros((count, 8), np.float32))


def served(state: WorkerState, request: str, count: int) -> None:
    assert state.on_forward(forward(request, 0, count)) == []
    state.on_results(state.next_batch(), [StepResult(request, token=1)])


def test_a_worker_forks_what_it_has_and_rejects_what_it_has_not() -> None:
    state = worker()
    served(state, "p", 40)
    assert state.on_forward(forward("x", 32, 5, Prefix("p", 32))) == [Fork("p", "x", 32)]
    rejected = [Send("home", Rejected("y", "b", "no_prefix"))]
    assert state.on_forward(forward("y", 48, 5, Prefix("p", 48))) == rejected, "only 40 tokens are computed"
    assert state.on_release(Release("p", 32)) == [Trim("p", 32)]
    assert state.kept == ("p",)
    assert state.on_forward(forward("z", 16, 5, Prefix("p", 16))) == [Fork("p", "z", 16)]
    assert state.on_release(Release("p")) == [Free("p")]
    assert state.on_forward(forward("y", 16, 5, Prefix("p", 16))) == rejected
    later = Forward("y", 21, True, None, np.zeros((1, 8), np.float32))
    assert state.on_forward(later) == [], "the later pieces of a rejected request are nobody's"
    assert [step.request for step in state.next_batch()] == ["x", "z"]


def test_a_worker_rejects_a_prefix_of_which_something_that_is_seen_was_freed() -> None:
    state = WorkerState("b", "home", 4, 4, 64, kv_window=6, page_tokens=4)
    served(state, "p", 26)
    assert state.on_release(Release("p", 24)) == [Trim("p", 24)]
    assert state.on_forward(forward("x", 24, 5, Prefix("p", 24))) == [Fork("p", "x", 24)]
    rejected = [Send("home", Rejected("y", "b", "no_prefix"))]
    assert state.on_forward(forward("y", 12, 5, Prefix("p", 12))) == rejected


def test_a_prefix_that_is_still_being_computed_is_none() -> None:
    state = worker()
    state.on_forward(forward("p", 0, 40))
    assert state.on_forward(forward("x", 16, 5, Prefix("p", 16))) == [Send("home", Rejected("x", "b", "no_prefix"))]


def test_a_release_that_overtakes_the_first_step_closes_the_door_to_a_fork_too() -> None:
    state = worker()
    served(state, "p", 40)
    assert state.on_release(Release("x")) == []
    assert state.on_forward(forward("x", 32, 5, Prefix("p", 32))) == []
    assert state.idle


def test_a_worker_that_starts_over_keeps_nothing() -> None:
    state = worker()
    served(state, "p", 40)
    state.on_release(Release("p", 32))
    served(state, "q", 3)
    assert state.forget_all() == [Free("p"), Free("q")]
    assert (state.kept, state.requests) == ((), 0)


# ---------------------------------------------------------------------- the coordinator's part


def cache(capacity: int = 1000, page_tokens: int = 4) -> PrefixCache:
    return PrefixCache(PageLedger({"a": capacity, "b": capacity}, 1.0, page_tokens=page_tokens))


def finish(prefixes: PrefixCache, name: str, tokens: list[int]) -> None:
    prefixes.start(name, ROUTE, tokens, len(tokens))
    prefixes.on_token(name, len(tokens))
    prefixes.end(name, tokens)


def test_a_route_matches_only_with_the_same_layers_on_every_hop() -> None:
    prefixes = cache()
    finish(prefixes, "p", list(range(10)))
    assert prefixes.start("x", NARROW, list(range(10)), 10)[0] is None
    assert prefixes.start("y", ROUTE, list(range(10)), 10)[0] == Prefix("p", 8)


def test_nobody_begins_with_a_request_before_its_first_token() -> None:
    prefixes = cache()
    prefixes.start("p", ROUTE, list(range(10)), 12)
    assert prefixes.start("x", ROUTE, list(range(10)), 12)[0] is None
    prefixes.on_token("p", 11)
    assert prefixes.start("y", ROUTE, list(range(10)), 12)[0] == Prefix("p", 8)


def test_shared_pages_count_once() -> None:
    prefixes = cache()
    finish(prefixes, "p", list(range(8)))
    assert (prefixes.ledger.used["a"], prefixes.ledger.kept["a"]) == (0, 8)
    for name in ("x", "y"):
        prefixes.start(name, ROUTE, [*range(8), 50, 51], 20)
    assert (prefixes.ledger.used["a"], prefixes.ledger.kept["a"]) == (8 + 2 * 12, 0)
    for name in ("x", "y"):
        prefixes.end(name, ())
    assert (prefixes.ledger.used["a"], prefixes.ledger.kept["a"]) == (0, 8)
    prefixes.drop_node("b")
    assert (prefixes.ledger.used["a"], prefixes.ledger.kept["a"]) == (0, 0)


@pytest.mark.parametrize(("shape", "kept"), [(KvShape(0, 1, 6), 8), (KvShape(1, 2, 6), 24 + 2 * 8)])
def test_behind_a_window_only_what_is_seen_is_kept_and_shared(shape: KvShape, kept: int) -> None:
    """24 tokens are 6 pages; who goes on from there looks back to token 19, which the fifth page begins with."""
    prefixes, tokens = cache(), list(range(24))
    prefixes.ledger.shapes["a"], prefixes.ledger.piece = shape, 8
    prefixes.start("p", ROUTE, tokens, 24, 26)
    # A window of 2 pages, and what a piece of 8 takes that doesn't begin with a page: 3.
    assert prefixes.ledger.used["a"] == shape.whole * 24 + shape.windowed * 20
    assert prefixes.ledger.used["b"] == 24
    prefixes.on_token("p", 25)
    assert prefixes.start("beside", ROUTE, [*tokens, 9, 9], 30)[0] is None, "it may free what others would need"
    prefixes.end("beside", ())
    assert prefixes.end("p", tokens) == [(ROUTE, Release("p", 24))]
    assert (prefixes.ledger.kept["a"], prefixes.ledger.kept["b"]) == (kept, 24)
    assert prefixes.start("early", ROUTE, [*tokens[:16], 9, 9], 20)[0] is None
    assert prefixes.start("late", ROUTE, [*tokens, 9, 9], 30)[0] == Prefix("p", 24)
    prefixes.validate({"early", "late"})
    prefixes.ledger.validate({"early", "late"})
    # What p left is needed by one that runs; the other one is to leave two pages where it parts from p.
    assert (prefixes.ledger.kept["a"], prefixes.ledger.kept["b"]) == (shape.windowed * 8, 0)
    prefixes.on_token("late", 27)
    prefixes.ledger.validate({"early", "late"})
    assert prefixes.ledger.kept["a"] == shape.windowed * 16


def windowed_cache(capacity: int = 1000) -> PrefixCache:
    prefixes = cache(capacity)
    prefixes.ledger.shapes["a"], prefixes.ledger.piece = KvShape(0, 1, 6), 8
    return prefixes


def asked(common: int, own: int, length: int = 12) -> list[int]:
    """A prompt that begins as others do, and goes on in its own way."""
    return [*range(common), *(100 * own + at for at in range(length))]


def test_where_prompts_part_there_is_a_beginning_for_others() -> None:
    """16 common tokens: who goes on from there looks back to token 11, in the third page."""
    prefixes = windowed_cache()
    prefixes.start("p", ROUTE, asked(16, 1), 30, 40)
    assert prefixes.checkpoint("p") == 0, "nobody knows that others begin so"
    assert prefixes.on_token("p", 29) == []
    assert prefixes.start("q", ROUTE, asked(16, 2), 30, 40)[0] is None
    name = checkpoint_name("q")
    assert prefixes.checkpoint("q") == 16
    assert prefixes.ledger.kept == {"a": 8, "b": 0}, "b keeps all of q anyway"
    assert prefixes.start("r", ROUTE, asked(16, 3), 30, 40)[0] is None
    assert prefixes.checkpoint("r") == 0, "q is about to leave that"
    prefixes.on_token("q", 29)
    assert prefixes.start("s", ROUTE, asked(16, 4), 30, 40)[0] == Prefix(name, 16)
    assert prefixes.checkpoint("s") == 0
    assert prefixes.start("t", ROUTE, asked(8, 5), 30, 40)[0] is None, "8 tokens see others"
    assert prefixes.checkpoint("t") == 8
    prefixes.validate({*"pqrst"})
    prefixes.ledger.validate({*"pqrst"})
    for one in "pqrst":
        prefixes.end(one, ())
    prefixes.validate(())
    assert prefixes.ledger.kept == {"a": 8, "b": 16}
    assert prefixes.drop_node("a") == [(ROUTE, Release(name))]


def test_a_beginning_that_some_worker_may_lack_is_given_up() -> None:
    prefixes = windowed_cache()
    finish(prefixes, "p", asked(16, 1))
    for own in (2, 3):
        prefixes.start("q", ROUTE, asked(16, own), 30, 40)
        assert prefixes.checkpoint("q") == 16
        assert (ROUTE, Release(checkpoint_name("q"))) in prefixes.end("q", ()), "it was lost before its first token"
        prefixes.validate(())
    prefixes.start("q", ROUTE, asked(16, 4), 30, 40)
    assert prefixes.end("q", asked(16, 4))[0] == (ROUTE, Release("q", 28)), "its first token was its last"
    assert prefixes.start("s", ROUTE, asked(16, 5), 30, 40)[0] == Prefix(checkpoint_name("q"), 16)


def test_who_runs_takes_the_room_of_a_beginning_that_is_not_there_yet() -> None:
    prefixes = windowed_cache(capacity=44)
    finish(prefixes, "p", asked(16, 1))
    prefixes.start("q", ROUTE, asked(16, 2), 28, 30)
    gone = [release.request for _, release in prefixes.start("r", ROUTE, asked(0, 9), 20, 20)[1]]
    assert checkpoint_name("q") in gone
    assert prefixes.checkpoint("q") == 0
    assert prefixes.on_token("q", 29) == []
    prefixes.validate({"q", "r"})
    prefixes.ledger.validate({"q", "r"})


def test_a_worker_keeps_what_is_seen_at_a_checkpoint() -> None:
    state = WorkerState("b", "home", 4, 4, 64, kv_window=6, page_tokens=4)
    first = forward("p", 0, 10)
    assert first.route is not None
    state.on_forward(replace(first, route=replace(first.route, checkpoint=16), wants_token=False))
    name = checkpoint_name("p")
    assert state.on_results(state.next_batch(), [StepResult("p")]) == []
    assert state.state_of(name) == "unknown"
    state.on_forward(Forward("p", 10, True, None, np.zeros((12, 8), np.float32)))
    assert state.on_results(state.next_batch(), [StepResult("p", token=1)])[0] == Fork("p", name, 16)
    assert (state.kept, state.state_of(name)) == ((name,), "kept")
    assert state.on_forward(forward("x", 16, 5, Prefix(name, 16))) == [Fork(name, "x", 16)]
    assert state.on_release(Release(name)) == [Free(name)]


def test_a_worker_makes_no_checkpoint_whose_room_was_needed_before() -> None:
    state = WorkerState("b", "home", 4, 4, 64, kv_window=6, page_tokens=4)
    first = forward("p", 0, 20)
    assert first.route is not None
    assert state.on_release(Release(checkpoint_name("p"))) == []
    state.on_forward(replace(first, route=replace(first.route, checkpoint=16)))
    done = state.on_results(state.next_batch(), [StepResult("p", token=1)])
    assert [type(action) for action in done] == [Send]
    assert state.kept == ()


def test_prompts_part_where_none_before_went_on() -> None:
    seen = SeenPrompts(4, most=6)
    assert seen.note(range(10)) == Parting(0, b"")
    assert seen.note(range(9)).tokens == 8
    assert seen.note([*range(4), 9, 9, 9, 9]).tokens == 4
    assert seen.note([1, *range(4)]).tokens == 0
    for start in range(100, 106):
        seen.note(range(start, start + 4))
    assert seen.note(range(10)).tokens == 0, "it was forgotten"


def test_a_short_request_shares_its_beginning_though_there_is_a_window() -> None:
    """It never frees anything: what it can come to fits the window."""
    prefixes = cache()
    prefixes.ledger.shapes["a"] = KvShape(0, 1, 30)
    prefixes.start("p", ROUTE, list(range(10)), 12, 20)
    prefixes.on_token("p", 11)
    assert prefixes.start("x", ROUTE, [*range(10), 7], 60)[0] == Prefix("p", 8)


def test_least_recently_used_goes_first_and_what_is_needed_stays_until_a_first_token() -> None:
    prefixes = cache(capacity=24)
    finish(prefixes, "old", [1] * 8)
    finish(prefixes, "new", [2] * 8)
    # Reads the older one, which makes the other the one to go; then needs all the room there is.
    prefix, releases = prefixes.start("x", ROUTE, [*[1] * 8, 9], 12)
    assert (prefix, releases) == (Prefix("old", 8), [])
    assert prefixes.start("y", ROUTE, [3] * 4, 8) == (None, [(ROUTE, Release("new"))])
    assert prefixes.start("z", ROUTE, [4] * 4, 8)[1] == [], "all that is left is in use"
    assert prefixes.drop_node("a") == [(ROUTE, Release("old", 8))], "x still needs it on its way"
    assert prefixes.on_token("x", 10) == [(ROUTE, Release("old"))]


def test_an_answer_that_somebody_else_has_already_is_not_kept_twice() -> None:
    prefixes = cache()
    for name in ("x", "y"):
        prefixes.start(name, ROUTE, list(range(9)), 12)
        prefixes.on_token(name, 10)
    assert prefixes.end("x", list(range(12))) == [(ROUTE, Release("x", 12))]
    assert prefixes.end("y", list(range(12))) == [(ROUTE, Release("y"))]
    assert prefixes.ledger.kept["a"] == 12


def test_the_index_finds_the_longest_beginning_and_forgets() -> None:
    index = PrefixIndex(4)
    index.add("short", ROUTE, range(4))
    index.add("long", ROUTE, range(11))
    index.add("fork", ROUTE, [*range(4), 9, 9, 9, 9])
    assert index.longest(ROUTE, range(7)) == Prefix("fork", 4)
    assert index.longest(ROUTE, range(40)) == Prefix("long", 8)
    index.remove("long")
    assert index.longest(ROUTE, range(40)) == Prefix("fork", 4)
    index.remove("fork")
    index.remove("short")
    index.remove("short")
    assert index.longest(ROUTE, range(40)) is None
    assert not index._roots
