from __future__ import annotations

import functools
from collections.abc import Generator
from typing import cast

import numpy as np
import pytest

from helix_df.errors import RequestError
from helix_df.layers import LayerRange
from helix_df.models.weights import load_shard
from helix_df.profiles.attention_kernels import FUSED, AttentionChoice
from helix_df.profiles.read_geometry import read_geometry
from helix_df.runtime.sampling import SamplingParams
from helix_df.runtime.worker.buckets import bucket_for, bucket_sizes
from helix_df.runtime.worker.engine import Engine
from helix_df.runtime.worker.sampler import sample, sampler_rows
from helix_df.runtime.worker.shapes import ASKED
from helix_df.runtime.worker.single_process import generate_in_process
from helix_df.runtime.worker.steps import Step
from helix_df.spec.source import ModelSource

SOURCE = ModelSource("random", "tiny")
GEOMETRY = read_geometry(SOURCE)
ALL = LayerRange(0, 4)
GREEDY = SamplingParams()
KERNELS = {"gather": AttentionChoice(), "fused": AttentionChoice(FUSED, FUSED)}


@functools.cache
def shard(start=0, stop=4):
    return load_shard(SOURCE, GEOMETRY, LayerRange(start, stop), seed=1)


def engine(**changes):
    settings = {"num_pages": 8, "max_batch": 4, "max_context": 64, "max_prefill": 16, **changes}
    return Engine(shard(), **settings)


def prefill(request, count, position=0, sampling=GREEDY):
    return Step(request, ALL, position, tokens=np.arange(count, dtype=np.int32), sampling=sampling)


def test_buckets():
    assert bucket_sizes(1, 8) == (1, 2, 4, 8)
    assert bucket_sizes(1, 6) == (1, 2, 4, 6)
    assert bucket_sizes(8, 100, ratio=4) == (8, 32, 100)
    assert bucket_sizes(16, 4) == (4,)
    assert bucket_for(5, (1, 4, 6)) == 6
    with pytest.raises(ValueError, match="7"):
        bucket_for(7, (1, 4, 6))


def test_pages_are_reserved_and_released_exactly():
    one = engine()
    one.run([prefill("a", 17), prefill("b", 16)])
    assert (one.used_pages, one.free_pages) == (3, 5)
    one.release("a")
    one.release("a")
    one.release("unknown")
    assert one.used_pages == 1


@pytest.mark.parametrize("shared", [16, 32, 48])
def test_a_forked_request_continues_as_if_it_had_computed_everything(shared):
    logprobs = SamplingParams(logprobs=20)
    tokens = np.arange(49, dtype=np.int32) * 7 % 256
    fresh = engine()
    (alone,) = fresh.run([Step("a", ALL, 0, tokens=tokens, sampling=logprobs)])
    one = engine()
    one.run([Step("parent", ALL, 0, tokens=np.concatenate([tokens[:shared], tokens[:9] + 1]))])
    used = one.used_pages
    one.fork("parent", "a", shared)
    assert one.used_pages == used
    (forked,) = one.run([Step("a", ALL, shared, tokens=tokens[shared:], sampling=logprobs)])
    np.testing.assert_allclose(forked.logprobs.top, alone.logprobs.top, atol=1e-3)
    one.release("parent")
    for position in range(49, 60):
        assert forked.token == alone.token
        step = Step("a", ALL, position, tokens=np.array([alone.token], np.int32), sampling=logprobs)
        (forked,), (alone,) = one.run([step]), fresh.run([step])
        np.testing.assert_allclose(forked.logprobs.chosen, alone.logprobs.chosen, atol=1e-3)
    one.trim("a", 16)
    assert one.used_pages == 1
    one.release("a")
    assert one.used_pages == 0


def test_a_full_cache_stops_only_the_one_that_doesnt_fit():
    one = engine(num_pages=3)
    first = list(generate_in_process(engine(), list(range(17)), 4))
    begun = one.run([prefill("a", 17)])[0]
    refused, fits = one.run([prefill("b", 33), prefill("c", 16)])
    assert (refused.kv_full, refused.token, fits.kv_full) == (True, None, False)
    assert one.used_pages == 3
    tokens, position = [begun.token], 17
    for _ in range(3):
        (result,) = one.run([Step("a", ALL, position, tokens=np.array(tokens[-1:], np.int32), sampling=GREEDY)])
        tokens.append(result.token)
        position += 1
    assert tokens == first
    (full,) = one.run([Step("c", ALL, 16, tokens=np.array([1], np.int32), sampling=GREEDY)])
    assert full.kv_full
    one.release("a")
    assert not one.run([Step("c", ALL, 16, tokens=np.array([1], np.int32), sampling=GREEDY)])[0].kv_full


def test_a_context_too_long_is_full():
    assert engine(num_pages=100).run([prefill("a", 65)])[0].kv_full


@pytest.mark.parametrize("pages_at_once", [None, 2])
def test_pools_are_updated_in_place(pages_at_once):
    one = engine(pages_at_once=pages_at_once)
    before = one.programs.pool_pointers()
    list(generate_in_process(one, [1, 2, 3], 5))
    assert one.programs.pool_pointers() == before


def test_by_stretches_a_longer_context_needs_no_other_program():
    one = engine(num_pages=40, max_context=512, pages_at_once=2)
    one.run([prefill("a", 16), prefill("b", 3)])
    one.run([prefill("a", 1, 16), prefill("b", 1, 3)])
    compiled = one.compilations
    for start in range(17, 497, 16):
        one.run([prefill("a", 16, start)])
    one.run([prefill("a", 1, 497), prefill("b", 1, 4)])
    assert one.compilations == compiled
    assert engine(num_pages=40, max_context=512).health.cold_shapes > 2 * one.health.cold_shapes


def test_whichever_kernel_computes_attention_the_tokens_are_the_same():
    prompt = [*range(3, 40)]
    said = {
        kernel: list(generate_in_process(engine(attention=choice), prompt, 12)) for kernel, choice in KERNELS.items()
    }
    assert said["fused"] == said["gather"]
    assert engine(attention=KERNELS["fused"]).health.attention == "fused"
    # Shapes follow contexts again, where a kernel reads all pages of one.
    assert engine(attention=KERNELS["fused"], num_pages=40, max_context=512, pages_at_once=8).health.cold_shapes > (
        engine(num_pages=40, max_context=512, pages_at_once=8).health.cold_shapes
    )


def test_partial_ranges_reuse_the_programs():
    one = Engine(shard(), num_pages=8, max_batch=4, max_context=64, layers_per_call=1)
    hidden = one.run([Step("a", LayerRange(0, 2), 0, tokens=np.arange(9, dtype=np.int32))])[0].hidden
    compiled = one.compilations
    middle = one.run([Step("a", LayerRange(2, 3), 0, hidden=hidden)])[0].hidden
    assert one.compilations == compiled
    assert middle.shape == (9, GEOMETRY.hidden_size)


def test_released_pages_leak_nothing_into_the_next_request():
    one = engine(num_pages=2)
    expected = list(generate_in_process(engine(), [7, 8, 9], 10))
    list(generate_in_process(one, list(range(20)), 8))
    assert list(generate_in_process(one, [7, 8, 9], 10)) == expected
    assert one.used_pages == 0


def test_a_batch_larger_than_the_largest_program():
    one = engine(max_batch=2)
    names = [f"r{number}" for number in range(5)]
    one.run([prefill(name, number + 2) for number, name in enumerate(names)])
    steps = [
        Step(name, ALL, number + 2, tokens=np.array([5], np.int32), sampling=GREEDY)
        for number, name in enumerate(names)
    ]
    together = [result.token for result in one.run(steps)]
    assert together == [one.run([step])[0].token for step in steps]


def test_sampled_tokens_dont_depend_on_the_batch():
    params = [SamplingParams(temperature=1.0, seed=seed) for seed in range(3)]
    alone = [list(generate_in_process(engine(), [4, 5], 6, one)) for one in params]
    one = engine()
    results = one.run([prefill_of(f"r{at}", [4, 5], 0, sampling) for at, sampling in enumerate(params)])
    tokens = [[result.token] for result in results]
    for position in range(2, 7):
        steps = [prefill_of(f"r{at}", [tokens[at][-1]], position, sampling) for at, sampling in enumerate(params)]
        for at, result in enumerate(one.run(steps)):
            tokens[at].append(result.token)
    assert tokens == alone


def prefill_of(request, tokens, position, sampling):
    return Step(request, ALL, position, tokens=np.array(tokens, np.int32), sampling=sampling)


def test_randomness_follows_seed_and_position():
    tokens = np.arange(7, dtype=np.int32)
    logits = shard()(tokens[None])[:, -1]
    for seed in range(5):
        params = SamplingParams(temperature=1.0, seed=seed)
        drawn = engine().run([prefill("a", 7, sampling=params)])[0].token
        assert drawn == int(sample(logits, sampler_rows([params], [7], 1))[0])


def test_padding_beyond_the_context_touches_nobody():
    """15 tokens are padded to 16, and the last lies beyond the last page."""
    logprobs = SamplingParams(logprobs=20)
    (at_once,) = engine(max_prefill=64).run([prefill("a", 64, sampling=logprobs)])
    one = engine()
    one.run([prefill("a", 49, sampling=None)])
    step = Step("a", ALL, 49, tokens=np.arange(49, 64, dtype=np.int32), sampling=logprobs)
    (in_parts,) = one.run([step])
    np.testing.assert_allclose(in_parts.logprobs.top, at_once.logprobs.top, atol=1e-4)


def test_no_token_unless_asked_for():
    result = engine().run([prefill("a", 5, sampling=None)])[0]
    assert (result.token, result.hidden, result.logprobs) == (None, None, None)


def test_logprobs_only_for_those_who_ask():
    one, other = engine().run([prefill("a", 5, sampling=SamplingParams(logprobs=3)), prefill("b", 5)])
    assert other.logprobs is None
    assert len(one.logprobs.top) == 3
    assert one.logprobs.top[0] == (one.token, one.logprobs.chosen)


def test_warm_up_compiles_what_serving_needs():
    one = engine()
    first = list(one.warm_up(only_first=True))
    assert [step.done for step in first] == list(range(1, first[-1].total + 1))
    compiled = one.compilations
    list(generate_in_process(one, list(range(9)), 4))
    assert one.compilations == compiled
    rest = list(one.warm_up())
    assert rest[0].done == first[-1].total + 1
    assert rest[-1].done == rest[-1].total
    assert list(one.warm_up()) == []
    assert one.used_pages == 0
    compiled = one.compilations
    for number in range(12):
        length = 1 + 7 * number % (one.max_context - 8)
        list(
            generate_in_process(one, [token % 64 for token in range(length)], 6, SamplingParams(temperature=number % 2))
        )
    one.run([prefill(str(number), 5 + number) for number in range(4)])
    one.run([prefill(str(number), 1, 5 + number) for number in range(4)])
    assert one.compilations == compiled


@pytest.mark.parametrize(
    "step",
    [
        Step("a", LayerRange(0, 5), 0, tokens=np.array([1], np.int32)),
        Step("a", ALL, 0, hidden=np.zeros((1, 64), np.float32)),
        Step("a", LayerRange(1, 4), 0, tokens=np.array([1], np.int32)),
        Step("a", LayerRange(1, 4), 0, hidden=np.zeros((1, 63), np.float32)),
        Step("a", ALL, 0, tokens=np.array([], np.int32)),
        Step("a", ALL, -1, tokens=np.array([1], np.int32)),
    ],
)
def test_steps_that_break_the_contract(step):
    one = engine()
    with pytest.raises(ValueError, match=r"layers|shape"):
        one.run([step])
    assert one.used_pages == 0


def test_one_step_a_request():
    with pytest.raises(ValueError, match="two steps"):
        engine().run([prefill("a", 2), prefill("a", 2)])


def test_generation_ends_at_the_end_token_and_frees_its_pages():
    one = engine()
    tokens = list(generate_in_process(one, [1, 2], 8))
    assert list(generate_in_process(one, [1, 2], 8, eos_ids={tokens[0]})) == tokens[:1]
    stream = generate_in_process(one, [1, 2], 8)
    next(stream)
    cast(Generator[int], stream).close()
    assert one.used_pages == 0


def test_generation_that_doesnt_fit():
    with pytest.raises(RequestError, match="full"):
        list(generate_in_process(engine(num_pages=1), list(range(15)), 8))


@pytest.mark.parametrize("pages_at_once", [None, 2])
@pytest.mark.parametrize("layers", [ALL, LayerRange(1, 3)])
def test_a_piece_that_rides_with_decode_steps_gives_what_it_gives_alone(layers, pages_at_once):
    chance = np.random.default_rng(3)
    hidden = chance.standard_normal((80, GEOMETRY.hidden_size)).astype(np.float32)

    def step(request, at, start, count):
        if layers.start == 0:
            tokens = (np.arange(at, at + count) * 5 % 256).astype(np.int32)
            return Step(request, layers, start, tokens=tokens, sampling=SamplingParams(logprobs=20))
        return Step(request, layers, start, hidden=hidden[at : at + count])

    def outcome(asked):
        one = Engine(
            shard(layers.start, layers.stop),
            num_pages=16,
            max_batch=4,
            max_context=64,
            max_prefill=16,
            pages_at_once=pages_at_once,
        )
        for _ in range(asked):
            one.run([step("x", 0, 0, 1), step("y", 0, 0, 5)])
            one.release("x")
            one.release("y")
        one.run([step("a", 0, 0, 9), step("b", 10, 0, 13), step("c", 30, 0, 16)])
        first = one.run([step("a", 50, 9, 1), step("c", 51, 16, 11), step("b", 70, 13, 1), step("d", 0, 0, 5)])
        return first + one.run([step("a", 71, 10, 1), step("c", 72, 27, 1), step("d", 5, 5, 4)]), one

    (apart, cold), (together, warm) = outcome(0), outcome(ASKED)
    mixed = [program for program in warm.programs.compiled if program[0] == "mixed"]
    assert mixed
    assert not [program for program in cold.programs.compiled if program[0] == "mixed"]
    for alone, one in zip(apart, together, strict=True):
        assert (one.request, one.token) == (alone.request, alone.token)
        if layers.stop == GEOMETRY.num_layers:
            np.testing.assert_allclose(one.logprobs.top[0][1], alone.logprobs.top[0][1], atol=1e-4)
        else:
            np.testing.assert_allclose(one.hidden, alone.hidden, atol=1e-4)


def test_a_pass_that_mixes_is_compiled_when_it_has_been_asked_for_often_enough():
    one = engine()
    for _ in range(ASKED + 1):
        assert not [program for program in one.programs.compiled if program[0] == "mixed"]
        one.run([Step("a", ALL, 0, tokens=np.ones(1, np.int32), sampling=GREEDY), prefill("b", 9)])
        one.release("a")
        one.release("b")
    assert [program for program in one.programs.compiled if program[0] == "mixed"]
