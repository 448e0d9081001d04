"""Keys and values of tokens in pages: how they are kept, written and read back.

Owns the number formats of the cache (``profiles.kv_formats``) in arrays. Doesn't know attention, or who owns a page.
Keys and values are laid out with the head before the token, because that order multiplies 2 to 7 times faster on a CPU
than token-major and costs nothing on a GPU.

Of 8 bits, a head's key of a token is levels times a scale of its own, the largest magnitude over 127. Products are made
with the levels, and scales multiply what comes out: a score for keys, a weight for values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from helix_df.profiles.geometry import ModelGeometry
from helix_df.profiles.kv_formats import KvFormat

_MOST = 127
"""Of an 8-bit level, to either side of zero."""

Zeros = Callable[[tuple[int, ...], DTypeLike], Array]


class KvNumbers(NamedTuple):
    """Keys or values: ``numbers`` [..., tokens, width], and of 8 bits ``scales`` [..., tokens, 1], else ``None``."""

    numbers: Array
    scales: Array | None = None


class PagedCache(NamedTuple):
    """One layer's keys and values, each ``[kv_heads, pages, page_tokens, head_dim]``. Page 0 is scratch.

    ``values`` is ``None`` where they are among keys (``AttentionView.value_width``).
    """

    keys: KvNumbers
    values: KvNumbers | None


def blank_cache(geometry: ModelGeometry, kind: KvFormat, pages: int, page_tokens: int, zeros: Zeros) -> PagedCache:
    """A layer's cache without a token; ``zeros`` makes its arrays."""
    pool = (geometry.cached_heads, pages, page_tokens)

    def blank(width: int) -> KvNumbers:
        scales = zeros((*pool, 1), jnp.float16) if kind == "int8" else None
        return KvNumbers(zeros((*pool, width), kind), scales)

    return PagedCache(blank(geometry.key_width), blank(geometry.value_width) if geometry.value_width else None)


def write(pool: KvNumbers, new: Array, rows: Array) -> KvNumbers:
    """The pool with ``new`` [B, T, kv_heads, width] at ``rows`` [kv_heads, B * T] of it, seen as a list of tokens."""
    if pool.scales is None:
        return KvNumbers(_write(pool.numbers, new, rows))
    scales = (jnp.abs(new).max(axis=-1, keepdims=True) / _MOST).astype(pool.scales.dtype)
    steps = scales.astype(jnp.float32)
    # What isn't finite reaches the scale, and all that is read with it.
    levels = jnp.where(steps > 0, jnp.clip(jnp.round(new / steps), -_MOST, _MOST), 0)
    return KvNumbers(_write(pool.numbers, levels, rows), _write(pool.scales, scales, rows))


def read(pool: KvNumbers, pages: Array) -> KvNumbers:
    """The tokens of ``pages`` [B, kv_heads, P], rows of the pool as a list of pages: [B, kv_heads, tokens, …]."""
    return KvNumbers(_read(pool.numbers, pages), None if pool.scales is None else _read(pool.scales, pages))


def _write(pool: Array, new: Array, rows: Array) -> Array:
    width = pool.shape[-1]
    by_head = new.reshape(-1, new.shape[2], width).transpose(1, 0, 2)  # [kv_heads, B * T, width]
    flat = pool.reshape(-1, width)
    flat = flat.at[rows.reshape(-1)].set(by_head.reshape(-1, width).astype(pool.dtype), mode="promise_in_bounds")
    return flat.reshape(pool.shape)


def _read(pool: Array, pages: Array) -> Array:
    kv_heads, count, page_tokens, width = pool.shape
    taken = jnp.take(pool.reshape(kv_heads * count, page_tokens * width), pages, axis=0, mode="clip")
    return taken.reshape(pages.shape[0], kv_heads, pages.shape[2] * page_tokens, width)


def product(left: Array, kept: KvNumbers, axis: int, dtype: DTypeLike) -> Array:
    """``left`` [B, heads, N, …] times what is kept, over its last axis and ``axis`` of ``kept``, in float32.

    Numbers of other formats are widened to ``dtype`` first. Scales are left to who calls (``scaled``).
    """
    numbers = kept.numbers.astype(dtype)
    return jax.lax.dot_general(
        left.astype(dtype), numbers, (((3,), (axis,)), ((0, 1), (0, 1))), preferred_element_type=jnp.float32
    )


def scaled(by_token: Array, kept: KvNumbers) -> Array:
    """``by_token`` [..., tokens] times each token's scale."""
    return by_token if kept.scales is None else by_token * kept.scales[..., 0][:, :, None].astype(jnp.float32)
