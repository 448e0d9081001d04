"""Attention over pages by ``jax.nn.dot_product_attention``: pages are put side by side, and the rest is one kernel.

cuDNN computes it where it takes such numbers, XLA elsewhere. Doesn't know which cases are given to it
(``profiles.attention_kernels``).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from helix_df.models.attention import AttentionView, PagedBatch
from helix_df.models.kv_cache import PagedCache, read

_WIDEST_OF_CUDNN = 128
"""Numbers of a head that cuDNN's attention takes on all GPUs that have it."""


def attend(queries: Array, view: AttentionView, batch: PagedBatch, cache: PagedCache) -> Array:
    """Attend to everything in the context's pages; shapes as in ``attend_to_pages``."""
    if cache.values is None:
        raise ValueError("values that are part of keys")
    keys, values = (
        read(pool, batch.read_pages).numbers.transpose(0, 2, 1, 3).astype(queries.dtype)
        for pool in (cache.keys, cache.values)
    )
    at = jnp.arange(keys.shape[1])[None, None, :]
    mask = view.sees(at, batch.positions[:, :, None])[:, None]
    mixed = jax.nn.dot_product_attention(
        queries,
        keys,
        values,
        mask=mask,
        scale=view.scale,
        implementation="cudnn" if takes_cudnn(jax.default_backend(), str(queries.dtype), queries.shape[-1]) else "xla",
    )
    return mixed.reshape(*queries.shape[:2], -1)


def takes_cudnn(platform: str, dtype: str, width: int) -> bool:
    """Whether cuDNN's attention has kernels for heads of ``width`` numbers of ``dtype``."""
    return platform == "gpu" and dtype in ("bfloat16", "float16") and width % 8 == 0 and width <= _WIDEST_OF_CUDNN
