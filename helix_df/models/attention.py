"""Grouped-query attention over a sequence at hand, or over keys and values kept in pages.

Owns the arithmetic of attention, and hands what another kernel is asked for to that one. Doesn't know projections,
rotary positions, how pages keep keys and values (``kv_cache``), who owns which page, or which kernel is fast.

What a layer looks at and how it weighs scores is a ``AttentionView``: scale, cap and window.

Pages are read all at once, as many as the batch's shape has, or stretch by stretch, only as many as the longest context
needs. Stretches stay in a CPU's cache and make the shape of a batch independent of contexts; on an accelerator, the
host would have to be asked after each whether there is another.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from helix_df.models.kv_cache import KvNumbers, PagedCache, product, read, scaled, write
from helix_df.models.scopes import scope
from helix_df.profiles.attention_kernels import OURS, AttentionCase, AttentionChoice, AttentionKernel

_MASKED = -1e30


class AttentionView(NamedTuple):
    """How the queries of a layer look at keys.

    ``scale`` multiplies scores; with ``softcap``, they are ``cap * tanh(score / cap)`` then. ``window`` [] is how many
    tokens a query sees, itself included; ``None`` for all. It is an array, so that layers of either kind share a
    program: one that sees everything then has a window longer than any context. ``sinks`` [heads] are scores that take
    part in the softmax and stand for no key (arXiv 2508.10925). Where ``value_width`` isn't ``None``, values are the
    first so many numbers of keys and aren't kept.
    """

    scale: float
    softcap: float | None = None
    window: Array | None = None
    sinks: Array | None = None
    value_width: int | None = None

    def scored(self, products: Array) -> Array:
        """Scores for products of queries and keys."""
        scores = products * self.scale
        return scores if self.softcap is None else self.softcap * jnp.tanh(scores / self.softcap)

    def sees(self, keys_at: Array, queries_at: Array) -> Array:
        """Which keys a query may look at, by positions that broadcast: none after it, none before its window."""
        seen = keys_at <= queries_at
        return seen if self.window is None else seen & (keys_at > queries_at - self.window)

    def values_of(self, keys: KvNumbers, values: KvNumbers | None) -> KvNumbers:
        """The values, where they may be among keys [..., head_dim]."""
        return keys._replace(numbers=keys.numbers[..., : self.value_width]) if values is None else values


WHOLE_CONTEXT = 2**30
"""A window that no context reaches."""


class PagedBatch(NamedTuple):
    """Where the tokens of one padded batch ``[B, T]`` stand, and where their context lies.

    ``positions`` [B, T] are absolute; ``cos`` and ``sin`` [B, T, kinds, dims / 2] follow from them. ``write_rows``
    [kv_heads, B * T] are rows of the flattened pool ``[kv_heads * pages * page_tokens, head_dim]`` (padding goes to
    page 0); ``read_pages`` [B, kv_heads, P] are rows of the pool seen as ``[kv_heads * pages, page_tokens *
    head_dim]``. ``longest`` [] is the longest context, the batch's own tokens included, and ``earliest`` [] the first
    position of any row that is real.
    """

    positions: Array
    cos: Array
    sin: Array
    write_rows: Array
    read_pages: Array
    longest: Array
    earliest: Array


def page_rows(
    tables: Array, positions: Array, lengths: Array, *, kv_heads: int, pages: int, page_tokens: int
) -> tuple[Array, Array]:
    """``write_rows`` and ``read_pages`` of a ``PagedBatch``.

    Args:
        tables: [B, P] page of each stretch of ``page_tokens`` positions; 0 where there is none.
        positions: [B, T] absolute positions.
        lengths: [B] how many of the T tokens are real.
        kv_heads: heads in the pool.
        pages: pages in the pool, scratch page included.
        page_tokens: tokens a page.
    """
    tokens = positions.shape[1]
    real = jnp.arange(tokens)[None, :] < lengths[:, None]
    page = jnp.take_along_axis(tables, jnp.minimum(positions // page_tokens, tables.shape[1] - 1), axis=1)
    slots = jnp.where(real, page * page_tokens + positions % page_tokens, 0).reshape(1, -1)
    heads = jnp.arange(kv_heads, dtype=jnp.int32)
    write_rows = heads[:, None] * (pages * page_tokens) + slots
    read_pages = heads[None, :, None] * pages + tables[:, None, :]
    return write_rows, read_pages


def attend(queries: Array, keys: Array, values: Array, mask: Array, view: AttentionView) -> Array:
    """Softmax attention, in float32 inside.

    Args:
        queries: [B, T, heads, head_dim]; ``heads`` is a multiple of the key heads, grouped in order.
        keys: [B, kv_heads, S, head_dim].
        values: [B, kv_heads, S, head_dim].
        mask: [B, T, S], true where a query may look.
        view: of the layer.

    Returns:
        [B, T, heads * head_dim].
    """
    return _attend(queries, KvNumbers(keys), KvNumbers(values), mask, view)


def _attend(queries: Array, keys: KvNumbers, values: KvNumbers, mask: Array, view: AttentionView) -> Array:
    batch, tokens, heads, _ = queries.shape
    kv_heads, context = keys.numbers.shape[1:3]
    group = heads // kv_heads
    grouped = _by_key_head(queries, kv_heads)
    products = jax.lax.dot_general(
        keys.numbers.astype(queries.dtype),
        grouped,
        (((3,), (3,)), ((0, 1), (0, 1))),
        preferred_element_type=jnp.float32,
    )  # [B, kv_heads, S, group * T]: keys first, because they are the long side
    scores = view.scored(scaled(products.transpose(0, 1, 3, 2), keys))
    scores = scores.reshape(batch, kv_heads, group, tokens, context)
    weights = _shares(jnp.where(mask[:, None, None], scores, _MASKED), view.sinks)
    weights = scaled(weights.reshape(batch, kv_heads, group * tokens, context), values).astype(queries.dtype)
    mixed = jax.lax.dot_general(weights, values.numbers.astype(queries.dtype), (((3,), (2,)), ((0, 1), (0, 1))))
    return _by_token(mixed, tokens)


def _shares(scores: Array, sinks: Array | None) -> Array:
    """Softmax over the keys of ``scores`` [B, kv_heads, group, T, S], and each head's sink where there are any."""
    if sinks is None:
        return jax.nn.softmax(scores, axis=-1)
    sinks = sinks.astype(jnp.float32).reshape(1, *scores.shape[1:3], 1, 1)
    most = jnp.maximum(scores.max(axis=-1, keepdims=True), sinks)
    weights = jnp.exp(scores - most)
    return weights / (weights.sum(axis=-1, keepdims=True) + jnp.exp(sinks - most))


def _by_key_head(queries: Array, kv_heads: int) -> Array:
    """[B, T, heads, head_dim] → [B, kv_heads, group * T, head_dim]: beside each other what looks at the same keys."""
    batch, tokens, heads, head_dim = queries.shape
    grouped = queries.reshape(batch, tokens, kv_heads, heads // kv_heads, head_dim).transpose(0, 2, 3, 1, 4)
    return grouped.reshape(batch, kv_heads, -1, head_dim)


def _by_token(mixed: Array, tokens: int) -> Array:
    """[B, kv_heads, group * T, head_dim] → [B, T, heads * head_dim]."""
    batch, kv_heads, _, head_dim = mixed.shape
    return mixed.reshape(batch, kv_heads, -1, tokens, head_dim).transpose(0, 3, 1, 2, 4).reshape(batch, tokens, -1)


@scope("attend")
def attend_causally(queries: Array, keys: Array, values: Array | None, view: AttentionView, positions: Array) -> Array:
    """Attention among the given tokens only: nobody looks at a later position.

    Args:
        queries: [B, T, heads, head_dim].
        keys: [B, T, kv_heads, head_dim].
        values: [B, T, kv_heads, head_dim]; ``None`` where the view says that they are among keys.
        view: of the layer.
        positions: [B, T].

    Returns:
        [B, T, heads * head_dim].
    """
    mask = view.sees(positions[:, None, :], positions[:, :, None])
    by_head = KvNumbers(keys.transpose(0, 2, 1, 3))
    return _attend(
        queries,
        by_head,
        view.values_of(by_head, None if values is None else KvNumbers(values.transpose(0, 2, 1, 3))),
        mask,
        view,
    )


def attend_in_pages(
    queries: Array,
    keys: Array,
    values: Array | None,
    view: AttentionView,
    batch: PagedBatch,
    cache: PagedCache,
    pages_at_once: int | None = None,
    choice: AttentionChoice = AttentionChoice(),  # noqa: B008  # it is frozen
) -> tuple[Array, PagedCache]:
    """Write the new keys and values to their pages, then attend to everything in the context's pages.

    Shapes as in ``attend_causally``. Stale slots of a page lie at later positions than any query, so the causal mask
    hides them. ``pages_at_once`` is the length of a stretch and divides the batch's pages; ``None`` reads all of them.
    ``choice`` says which kernel is asked for.

    Returns:
        [B, T, heads * head_dim] and the cache with the new tokens in it.
    """
    cache = write_pages(keys, values, batch.write_rows, cache)
    return attend_to_pages(queries, view, batch, cache, pages_at_once, choice), cache


@scope("write_kv")
def write_pages(keys: Array, values: Array | None, write_rows: Array, cache: PagedCache) -> PagedCache:
    """New keys and values [B, T, kv_heads, head_dim] in their pages; ``write_rows`` as in ``PagedBatch``."""
    # Padding may hold anything, NaN included, and a masked NaN still is one: the scratch page stays blank.
    real = (write_rows[0] >= cache.keys.numbers.shape[2]).reshape(*keys.shape[:2], 1, 1)
    kept = write(cache.keys, jnp.where(real, keys, 0), write_rows)
    if cache.values is None or values is None:
        return PagedCache(kept, None)
    return PagedCache(kept, write(cache.values, jnp.where(real, values, 0), write_rows))


@scope("attend")
def attend_to_pages(
    queries: Array,
    view: AttentionView,
    batch: PagedBatch,
    cache: PagedCache,
    pages_at_once: int | None = None,
    choice: AttentionChoice = AttentionChoice(),  # noqa: B008  # it is frozen
) -> Array:
    """Attend to everything in the context's pages, where the batch's own keys and values are already.

    Computed by the kernel of ``choice``, where that can, else here.

    Returns:
        [B, T, heads * head_dim].
    """
    kernel = choice.kernel(case_of_batch(queries, view, cache))
    if kernel is not OURS:
        return computes(kernel)(queries, view, batch, cache)
    if pages_at_once is not None:
        return _attend_by_stretches(queries, view, batch, cache, pages_at_once)
    return gather(queries, view, batch, cache)


def case_of_batch(queries: Array, view: AttentionView, cache: PagedCache) -> AttentionCase:
    """What a batch asks of a kernel, by its shapes."""
    keys = cache.keys.numbers
    return AttentionCase(
        tokens=queries.shape[1],
        heads=queries.shape[2],
        kv_heads=keys.shape[0],
        key_width=keys.shape[3],
        page_tokens=keys.shape[2],
        dtype=str(queries.dtype),
        kv=str(keys.dtype),
        softcap=view.softcap is not None,
        window=view.window is not None,
        sinks=view.sinks is not None,
        latent=cache.values is None,
        platform=jax.default_backend(),
    )


PagedAttention = Callable[[Array, AttentionView, PagedBatch, PagedCache], Array]
"""As ``attend_to_pages``."""


def computes(kernel: AttentionKernel) -> PagedAttention:
    """What computes a kernel's cases."""
    module, _, attribute = kernel.place.partition(":")
    found: PagedAttention = getattr(import_module(module), attribute)
    return found


def gather(queries: Array, view: AttentionView, batch: PagedBatch, cache: PagedCache) -> Array:
    """Attend to everything in the context's pages at once."""
    context_keys, context_values = _read_both(cache, batch.read_pages, view)
    mask = view.sees(jnp.arange(context_keys.numbers.shape[2])[None, None, :], batch.positions[:, :, None])
    return _attend(queries, context_keys, context_values, mask, view)


def _attend_by_stretches(
    queries: Array, view: AttentionView, batch: PagedBatch, cache: PagedCache, pages: int
) -> Array:
    """Softmax over stretches of ``pages`` pages, corrected by each new maximum (arXiv 1805.02867, 2205.14135)."""
    tokens, heads = queries.shape[1:3]
    kv_heads, _, page_tokens, _ = cache.keys.numbers.shape
    grouped = _by_key_head(queries, kv_heads)  # [B, kv_heads, group * T, head_dim]
    positions = jnp.tile(batch.positions, heads // kv_heads)[:, None, :, None]  # [B, 1, group * T, 1]

    def stretch(index: Array, so_far: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        most, total, mixed = so_far
        rows = jax.lax.dynamic_slice_in_dim(batch.read_pages, index * pages, pages, axis=2)
        keys, values = _read_both(cache, rows, view)
        scores = view.scored(scaled(product(grouped, keys, 3, queries.dtype), keys))  # [B, kv_heads, group * T, S]
        at = index * pages * page_tokens + jnp.arange(pages * page_tokens)
        scores = jnp.where(view.sees(at, positions), scores, _MASKED)
        # What a query gathers before the first stretch that it sees counts nothing: ``kept`` is 0 at its first real
        # maximum. Every query sees itself, so there is one.
        larger = jnp.maximum(most, scores.max(axis=3, keepdims=True))
        weights, kept = jnp.exp(scores - larger), jnp.exp(most - larger)
        total = total * kept + weights.sum(axis=3, keepdims=True)
        return larger, total, mixed * kept + product(scaled(weights, values), values, 2, queries.dtype)

    nothing = jnp.zeros((*grouped.shape[:3], 1), jnp.float32)
    most, total = nothing + _MASKED, nothing
    if view.sinks is not None:  # begin with them: a score and its share, but nothing that it mixes in
        most = nothing + jnp.repeat(view.sinks.astype(jnp.float32).reshape(1, kv_heads, -1, 1), tokens, axis=2)
        total = nothing + 1
    value_width = view.values_of(cache.keys, cache.values).numbers.shape[-1]
    start = (most, total, jnp.zeros((*grouped.shape[:3], value_width), jnp.float32))
    stretches = (batch.longest - 1) // (pages * page_tokens) + 1
    first = jnp.int32(0) if view.window is None else _first_seen(view.window, batch) // (pages * page_tokens)
    _, total, mixed = jax.lax.fori_loop(first, stretches, stretch, start)
    return _by_token((mixed / total).astype(queries.dtype), tokens)


def _first_seen(window: Array, batch: PagedBatch) -> Array:
    """The first position that any query of the batch sees."""
    return jnp.maximum(batch.earliest - window + 1, 0)


def _read_both(cache: PagedCache, pages: Array, view: AttentionView) -> tuple[KvNumbers, KvNumbers]:
    """Keys and values in ``pages``."""
    keys = read(cache.keys, pages)
    return keys, view.values_of(keys, None if cache.values is None else read(cache.values, pages))
