"""Attention of decode steps over pages where they lie, by jax's Pallas kernel: nothing is copied side by side.

The kernel goes by each request's table of pages, and corrects what it has so far by each new maximum (arXiv
1805.02867); parts of a context are computed side by side. Doesn't know which cases are given to it
(``profiles.attention_kernels``).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.pallas.ops.gpu.paged_attention import paged_attention

from helix_df.models.attention import AttentionView, PagedBatch
from helix_df.models.kv_cache import KvNumbers, PagedCache

_MOST_PARTS = 16
"""Of a context, side by side: enough to fill a GPU with one request."""

_MOST_AT_ONCE = 8
"""Pages that one step of the kernel multiplies."""


def attend(queries: Array, view: AttentionView, batch: PagedBatch, cache: PagedCache) -> Array:
    """Attend to everything in the context's pages; shapes as in ``attend_to_pages``, with one token a request.

    On a CPU the kernel is interpreted: right for tests alone.
    """
    rows, tokens, heads, width = queries.shape
    if tokens != 1 or cache.values is None:
        raise ValueError(f"{tokens} tokens, {'no' if cache.values is None else 'own'} values")
    parts = math.gcd(batch.read_pages.shape[2], _MOST_PARTS)
    # The kernel doesn't scale. In float32, and rounded once: a scale needn't be a power of two.
    scaled = (queries[:, 0].astype(jnp.float32) * view.scale).astype(queries.dtype)
    mixed: Array = paged_attention(
        scaled,
        _numbers(cache.keys, queries),
        _numbers(cache.values, queries),
        batch.read_pages[:, 0],  # the first head's pages are the pool's own numbers
        batch.positions[:, 0] + 1,
        _scales(cache.keys),
        _scales(cache.values),
        k_splits=parts,
        pages_per_compute_block=math.gcd(batch.read_pages.shape[2] // parts, _MOST_AT_ONCE),
        attn_logits_soft_cap=view.softcap,
        interpret=jax.default_backend() == "cpu",
    )
    return mixed.reshape(rows, 1, heads * width)


def _numbers(pool: KvNumbers, queries: Array) -> Array:
    # The kernel widens levels itself, page by page; numbers of other formats it doesn't.
    return pool.numbers if pool.scales is not None else pool.numbers.astype(queries.dtype)


def _scales(pool: KvNumbers) -> Array | None:
    return None if pool.scales is None else pool.scales[..., 0]
