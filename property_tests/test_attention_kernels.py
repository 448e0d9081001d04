"""Kernels of attention compute what the definition says, and none is given what it can't do."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from helix_df.models.attention import AttentionView, PagedBatch, attend_to_pages, case_of_batch, computes
from helix_df.models.fused_attention import takes_cudnn
from helix_df.models.kv_cache import PagedCache
from helix_df.profiles.attention_kernels import (
    BUILT_IN,
    FUSED,
    OURS,
    PAGED,
    AttentionCase,
    AttentionChoice,
    AttentionKernel,
)
from property_tests.test_attention import as_kept, in_pages, kept_in, rows_of

ROWS, HEADS, WIDTH, PAGE_TOKENS = 2, 4, 16, 16
SCALE = 0.3
"""Not a power of two, which a kernel that rounds it would show."""


class Shape(NamedTuple):
    """What a program is compiled for."""

    kernel: AttentionKernel
    tokens: int
    kv_heads: int
    kv: str
    pages: int
    softcap: float | None = None
    window: bool = False


# Few, since each is compiled, and the kernel for GPUs interpreted.
SHAPES = (
    Shape(PAGED, 1, 1, "float32", 8),
    Shape(PAGED, 1, 2, "int8", 6, softcap=2.0),
    Shape(PAGED, 1, HEADS, "float32", 32, softcap=2.0),
    Shape(FUSED, 1, 2, "float32", 4),
    Shape(FUSED, 7, 1, "float32", 4, window=True),
    Shape(FUSED, 7, HEADS, "bfloat16", 4),
    Shape(OURS, 7, 2, "float32", 4, softcap=2.0, window=True),
    Shape(OURS, 1, 2, "int8", 4),
)


@cache
def program(kernel: AttentionKernel, softcap: float | None) -> Any:
    compute = computes(kernel)
    return jax.jit(lambda q, window, batch, cache: compute(q, AttentionView(SCALE, softcap, window), batch, cache))


@settings(max_examples=24, deadline=None)
@given(shape=st.sampled_from(SHAPES), data=st.data(), seed=st.integers(0, 99))
def test_a_kernel_computes_attention(shape: Shape, data: st.DataObject, seed: int) -> None:
    chance = np.random.default_rng(seed)
    context = shape.pages * PAGE_TOKENS
    firsts = data.draw(st.tuples(*[st.integers(0, context - shape.tokens)] * ROWS))
    window = data.draw(st.sampled_from((1, 3, 40, context))) if shape.window else None
    queries = chance.normal(size=(ROWS, shape.tokens, HEADS, WIDTH)).astype(np.float32)
    keys, values = chance.normal(size=(2, ROWS, context, shape.kv_heads, WIDTH))
    kept = tuple(first + shape.tokens for first in firsts)
    batch, tables, pages = batch_of(firsts, shape.tokens, shape.kv_heads, shape.pages, chance)
    cache = PagedCache(
        *(kept_in(in_pages(all_of, kept, tables, pages, PAGE_TOKENS), shape.kv) for all_of in (keys, values))
    )

    assert (
        shape.kernel.lacks(replace(case_of_batch(jnp.asarray(queries), viewed(shape), cache), platform="gpu")) is None
    )
    mixed = program(shape.kernel, shape.softcap)(
        jnp.asarray(queries), None if window is None else jnp.int32(window), batch, cache
    )

    kind = None if shape.kv == "float32" else shape.kv
    keys, values = as_kept(keys, kind), as_kept(values, kind)
    for row, first in enumerate(firsts):
        for token in range(shape.tokens):
            seen = slice(max(0, first + token + 1 - (window or context)), first + token + 1)
            for head in range(HEADS):
                of_group = head // (HEADS // shape.kv_heads)
                scores = SCALE * keys[row, seen, of_group] @ queries[row, token, head].astype(np.float64)
                scores = scores if shape.softcap is None else shape.softcap * np.tanh(scores / shape.softcap)
                weights = np.exp(scores - scores.max())
                expected = weights @ values[row, seen, of_group] / weights.sum()
                found = np.asarray(mixed)[row, token, head * WIDTH : (head + 1) * WIDTH]
                np.testing.assert_allclose(found, expected, atol=2e-5)


def batch_of(
    firsts: tuple[int, ...], tokens: int, kv_heads: int, pages: int, chance: np.random.Generator
) -> tuple[PagedBatch, np.ndarray, int]:
    """Rows of ``tokens`` tokens from ``firsts`` on, the table of their pages, and how many pages there are."""
    rows = len(firsts)
    tables = 1 + chance.permutation(rows * pages).reshape(rows, pages).astype(np.int32)
    positions = np.asarray(firsts, np.int32)[:, None] + np.arange(tokens, dtype=np.int32)
    write_rows, read_pages = rows_of(
        tables,
        positions,
        np.full(rows, tokens),
        kv_heads=kv_heads,
        pages=1 + rows * pages,
        page_tokens=PAGE_TOKENS,
    )
    nothing: Any = jnp.zeros(0)
    longest, earliest = jnp.int32(max(firsts) + tokens), jnp.int32(min(firsts))
    batch = PagedBatch(jnp.asarray(positions), nothing, nothing, write_rows, read_pages, longest, earliest)
    return batch, tables, 1 + rows * pages


def viewed(shape: Shape) -> AttentionView:
    return AttentionView(SCALE, shape.softcap, jnp.int32(1) if shape.window else None)


CASES = st.builds(
    AttentionCase,
    tokens=st.sampled_from((1, 2, 512)),
    heads=st.just(32),
    kv_heads=st.sampled_from((1, 8, 32)),
    key_width=st.sampled_from((8, 64, 80, 128, 576)),
    page_tokens=st.sampled_from((4, 16, 24)),
    dtype=st.sampled_from(("float32", "bfloat16")),
    kv=st.sampled_from(("float32", "bfloat16", "int8")),
    softcap=st.booleans(),
    window=st.booleans(),
    sinks=st.booleans(),
    latent=st.booleans(),
    platform=st.sampled_from(("cpu", "gpu", "tpu")),
)
KERNELS = st.sampled_from(tuple(BUILT_IN.values()))


@given(case=CASES, decode=KERNELS, prefill=KERNELS)
def test_a_kernel_is_given_only_what_it_can_do(
    case: AttentionCase, decode: AttentionKernel, prefill: AttentionKernel
) -> None:
    asked = decode if case.tokens == 1 else prefill
    chosen = AttentionChoice(decode, prefill).kernel(case)
    assert chosen in (asked, OURS)
    assert (chosen is asked) == (asked.lacks(case) is None)
    assert chosen.lacks(case) is None
    # What jax's kernels have no way to be told of.
    if chosen is not OURS:
        assert not case.sinks
        assert not case.latent
    if chosen is FUSED:
        assert not case.softcap
        assert case.kv != "int8"
    if chosen is PAGED:
        assert (case.platform, case.tokens, case.window) == ("gpu", 1, False)
        assert {case.key_width, case.page_tokens} <= {16, 32, 64, 128, 256}


@given(case=CASES)
def test_ours_can_do_everything(case: AttentionCase) -> None:
    assert OURS.lacks(case) is None
    assert AttentionChoice().kernel(case) is OURS


def test_no_kernel_can_do_less_than_the_rule_says() -> None:
    plain = AttentionCase(tokens=1, heads=8, kv_heads=4, key_width=64, page_tokens=16, dtype="bfloat16", kv="bfloat16")
    assert all(kernel.lacks(plain) is None for kernel in BUILT_IN.values())
    prompt = replace(plain, tokens=64, window=True)
    assert [kernel.name for kernel in BUILT_IN.values() if kernel.lacks(prompt) is None] == ["gather", "fused"]


@pytest.mark.parametrize(
    ("platform", "dtype", "width", "taken"),
    [
        ("gpu", "bfloat16", 64, True),
        ("gpu", "float16", 128, True),
        ("gpu", "float32", 64, False),
        ("gpu", "bfloat16", 256, False),
        ("gpu", "bfloat16", 60, False),
        ("cpu", "bfloat16", 64, False),
    ],
)
def test_cudnn_is_asked_for_what_it_has(platform: str, dtype: str, width: int, taken: bool) -> None:
    assert takes_cudnn(platform, dtype, width) is taken


@settings(max_examples=6, deadline=None)
@given(
    kernel=KERNELS,
    tokens=st.sampled_from((1, 5)),
    kv=st.sampled_from(("float32", "int8")),
    softcap=st.sampled_from((None, 2.0)),
    window=st.sampled_from((None, 4)),
    sinks=st.booleans(),
    latent=st.booleans(),
    seed=st.integers(0, 99),
)
def test_whichever_kernel_is_asked_for_the_numbers_are_the_same(
    kernel: AttentionKernel,
    tokens: int,
    kv: str,
    softcap: float | None,
    window: int | None,
    sinks: bool,
    latent: bool,
    seed: int,
) -> None:
    assume(kernel is not OURS)
    chance, heads = np.random.default_rng(seed), 1
    firsts = tuple(chance.integers(0, 2 * PAGE_TOKENS - tokens, ROWS).tolist())
    batch, _, pages = batch_of(firsts, tokens, heads, 2, chance)
    pools = [kept_in(chance.normal(size=(heads, pages, PAGE_TOKENS, WIDTH)), kv) for _ in range(2)]
    cache = PagedCache(pools[0], None if latent else pools[1])
    view = AttentionView(
        SCALE,
        softcap,
        None if window is None else jnp.int32(window),
        jnp.asarray(chance.normal(size=HEADS), jnp.float32) if sinks else None,
        WIDTH // 2 if latent else None,
    )
    queries = jnp.asarray(chance.normal(size=(ROWS, tokens, HEADS, WIDTH)), jnp.float32)
    asked = partial(attend_to_pages, queries, view, batch, cache)
    np.testing.assert_allclose(asked(choice=AttentionChoice(kernel, kernel)), asked(), atol=1e-5)


def test_rows_of_a_table_are_the_pages_of_the_first_head() -> None:
    """By which the kernel for decode steps finds them."""
    tables = np.array([[3, 1], [2, 4]], np.int32)
    nothing = np.zeros((2, 1), np.int32), np.ones(2, np.int32)
    _, read_pages = rows_of(tables, *nothing, kv_heads=3, pages=5, page_tokens=4)
    np.testing.assert_array_equal(read_pages[:, 0], tables)
