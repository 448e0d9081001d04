"""Pages read stretch by stretch, or all at once, or keys and values at hand: attention is the same."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from helix_df.models.attention import (
    WHOLE_CONTEXT,
    AttentionView,
    PagedBatch,
    attend,
    attend_in_pages,
    page_rows,
)
from helix_df.models.kv_cache import KvNumbers, PagedCache

PAGE_TOKENS = 4
HEAD_DIM = 8
HEADS = 4
ROWS = 3
TOKENS = 6
CONTEXT = 60
"""Room for the longest context, padding included, in pages and stretches of any length below."""

PAGES = 1 + ROWS * CONTEXT // PAGE_TOKENS

SCALE = HEAD_DIM**-0.5


@partial(jax.jit, static_argnames="softcap")
def attend_at_hand(queries, keys, values, mask, softcap):
    return attend(queries, keys, values, mask, AttentionView(SCALE, softcap))


@partial(jax.jit, static_argnames=("softcap", "pages_at_once"))
def attend_paged(queries, keys, values, window, batch, cache, *, softcap, pages_at_once):
    return attend_in_pages(queries, keys, values, AttentionView(SCALE, softcap, window), batch, cache, pages_at_once)


rows_of = jax.jit(page_rows, static_argnames=("kv_heads", "pages", "page_tokens"))


@settings(max_examples=100, deadline=None)
@given(
    cached=st.tuples(*[st.integers(0, CONTEXT - TOKENS)] * ROWS),
    new=st.tuples(*[st.integers(1, TOKENS)] * ROWS),
    kv_heads=st.sampled_from((1, 2, HEADS)),
    pages_at_once=st.sampled_from((None, 1, 5)),
    formats=st.sampled_from(
        [(jnp.float32, None), (jnp.bfloat16, None), *((jnp.float32, kind) for kind in ("bfloat16", "float16", "int8"))]
    ),
    window=st.sampled_from((None, 1, 3, 17, WHOLE_CONTEXT)),
    softcap=st.sampled_from((None, 2.0)),
    seed=st.integers(0, 99),
)
def test_attention_in_pages_is_attention(cached, new, kv_heads, pages_at_once, formats, window, softcap, seed):
    dtype, kind = formats
    chance = np.random.default_rng(seed)
    queries = jnp.asarray(chance.normal(size=(ROWS, TOKENS, HEADS, HEAD_DIM)), dtype)
    keys, values = chance.normal(size=(2, ROWS, CONTEXT, kv_heads, HEAD_DIM))
    tables = 1 + chance.permutation(PAGES - 1).reshape(ROWS, -1).astype(np.int32)
    positions = np.asarray(cached, np.int32)[:, None] + np.arange(TOKENS, dtype=np.int32)
    longest = max(before + now for before, now in zip(cached, new, strict=True))
    write_rows, read_pages = rows_of(
        tables, positions, np.asarray(new), kv_heads=kv_heads, pages=PAGES, page_tokens=PAGE_TOKENS
    )
    nothing: Any = jnp.zeros(0)

    mixed, _ = attend_paged(
        queries,
        *(
            jnp.asarray(np.take_along_axis(all_of, cast(Any, positions[:, :, None, None]), axis=1), dtype)
            for all_of in (keys, values)
        ),
        None if window is None else jnp.int32(window),
        PagedBatch(
            jnp.asarray(positions), nothing, nothing, write_rows, read_pages, jnp.int32(longest), jnp.int32(min(cached))
        ),
        PagedCache(*(kept_in(in_pages(all_of, cached, tables), kind or dtype) for all_of in (keys, values))),
        softcap=softcap,
        pages_at_once=pages_at_once,
    )

    at_hand = (jnp.asarray(as_kept(all_of, kind).transpose(0, 2, 1, 3), dtype) for all_of in (keys, values))
    at = np.arange(CONTEXT)
    seen = (at <= positions[:, :, None]) & (at > positions[:, :, None] - (window or CONTEXT))
    expected = attend_at_hand(queries, *at_hand, seen, softcap)
    for row, count in enumerate(new):
        np.testing.assert_allclose(
            np.asarray(mixed[row, :count], np.float32),
            np.asarray(expected[row, :count], np.float32),
            atol=1e-5 if dtype == jnp.float32 else 0.05,
        )


@settings(max_examples=30, deadline=None)
@given(kv_heads=st.sampled_from((1, 2, HEADS)), pages_at_once=st.sampled_from((None, 1, 5)), seed=st.integers(0, 99))
def test_a_sink_takes_its_share_and_gives_nothing(kv_heads, pages_at_once, seed):
    chance = np.random.default_rng(seed)
    queries = chance.normal(size=(ROWS, 1, HEADS, HEAD_DIM)).astype(np.float32)
    keys, values = chance.normal(size=(2, ROWS, CONTEXT, kv_heads, HEAD_DIM)).astype(np.float32)
    sinks, last = 3 * chance.normal(size=HEADS).astype(np.float32), chance.integers(0, CONTEXT - 1, size=ROWS)
    tables = 1 + chance.permutation(PAGES - 1).reshape(ROWS, -1).astype(np.int32)
    positions = last[:, None].astype(np.int32)
    write_rows, read_pages = rows_of(
        tables, positions, np.ones(ROWS, np.int32), kv_heads=kv_heads, pages=PAGES, page_tokens=PAGE_TOKENS
    )
    nothing: Any = jnp.zeros(0)
    new_keys, new_values = (jnp.asarray(all_of[np.arange(ROWS), last][:, None]) for all_of in (keys, values))
    cached = tuple(last.tolist())

    mixed, _ = attend_in_pages(
        jnp.asarray(queries),
        new_keys,
        new_values,
        AttentionView(SCALE, sinks=jnp.asarray(sinks)),
        PagedBatch(
            jnp.asarray(positions), nothing, nothing, write_rows, read_pages, jnp.int32(max(cached) + 1), jnp.int32(0)
        ),
        PagedCache(*(kept_in(in_pages(all_of, cached, tables), jnp.float32) for all_of in (keys, values))),
        pages_at_once,
    )

    for row in range(ROWS):
        for head in range(HEADS):
            of_group = head // (HEADS // kv_heads)
            seen = keys[row, : last[row] + 1, of_group]
            weights = np.exp([*(SCALE * seen @ queries[row, 0, head]), sinks[head]])
            expected = weights[:-1] @ values[row, : last[row] + 1, of_group] / weights.sum()
            found = np.asarray(mixed)[row, 0, head * HEAD_DIM : (head + 1) * HEAD_DIM]
            np.testing.assert_allclose(found, expected, atol=1e-5)


def in_pages(
    tokens: np.ndarray, cached: tuple[int, ...], tables: np.ndarray, pages: int = PAGES, page_tokens: int = PAGE_TOKENS
) -> np.ndarray:
    """What is cached of each row's ``tokens``, in its pages; elsewhere numbers that nobody may look at."""
    pool = np.full((tokens.shape[2], pages, page_tokens, tokens.shape[3]), 50.0)
    for row, count in enumerate(cached):
        for position in range(count):
            pool[:, tables[row, position // page_tokens], position % page_tokens] = tokens[row, position]
    return pool


def in_eight_bits(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Levels and scales: the largest magnitude of each vector is 127."""
    scales = (np.abs(tokens).max(axis=-1, keepdims=True) / 127).astype(np.float16)
    return np.clip(np.rint(tokens / scales.astype(np.float64)), -127, 127), scales


def as_kept(tokens: np.ndarray, kind: str | None) -> np.ndarray:
    """What is left of numbers that go into a cache of that kind and come out again."""
    if kind == "int8":
        levels, scales = in_eight_bits(tokens)
        return levels * scales
    return tokens if kind is None else np.asarray(jnp.asarray(tokens, jnp.float32).astype(kind), np.float64)


def kept_in(pool: np.ndarray, kind: Any) -> KvNumbers:
    if kind == "int8":
        levels, scales = in_eight_bits(pool)
        return KvNumbers(jnp.asarray(levels, jnp.int8), jnp.asarray(scales))
    return KvNumbers(jnp.asarray(pool, kind))
