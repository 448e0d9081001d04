"""Draw next tokens from logits, on the device, a whole batch at a time.

Owns edits, temperature, min-p, top-k, nucleus and the randomness. Doesn't know requests. A row's randomness depends on
its seed and its position alone, so batching never changes which token a row draws from given logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from helix_df.models.scopes import scope
from helix_df.runtime.sampling import MAX_LOGPROBS, SamplingParams
from helix_df.runtime.worker.edits import Edits

NOT_FINITE = -1
"""What is drawn from logits that aren't all finite: no token."""

_REMOVED = -jnp.inf


class SamplerRows(NamedTuple):
    """Sampling parameters by row, each [B]; ``positions`` are those of the tokens to be drawn. ``min_p`` is None where
    all rows keep everything by it."""

    temperature: ArrayLike
    top_p: ArrayLike
    top_k: ArrayLike
    seeds: ArrayLike
    positions: ArrayLike
    min_p: ArrayLike | None = None


def sampler_rows(params: Sequence[SamplingParams | None], positions: Sequence[int], rows: int) -> SamplerRows:
    """Parameters of a batch, padded to ``rows`` with greedy ones. None is greedy too."""
    filled = [one or SamplingParams() for one in params] + [SamplingParams()] * (rows - len(params))
    return SamplerRows(
        temperature=np.array([one.temperature for one in filled], np.float32),
        top_p=np.array([one.top_p for one in filled], np.float32),
        top_k=np.array([one.top_k for one in filled], np.int32),
        seeds=np.array([one.seed for one in filled], np.uint32),
        positions=np.array([*positions, *([0] * (rows - len(positions)))], np.int32),
    )


@jax.jit
@scope("sample")
def pick_greedily(logits: Array, model: Array | None = None) -> Array:
    """The likeliest token of each row: float32 [B, V] → int32 [B]; ``NOT_FINITE`` where there is none.

    ``model`` are the model's own logits, where ``logits`` were changed: theirs have to be finite.
    """
    return _or_not_finite(jnp.argmax(logits, axis=-1), logits if model is None else model)


@jax.jit
@scope("sample")
def sample(logits: Array, rows: SamplerRows, model: Array | None = None) -> Array:
    """One token a row: float32 [B, V] → int32 [B]. Rows of temperature 0 get the likeliest token.

    Rows of logits that aren't all finite get ``NOT_FINITE``; ``model`` as for ``pick_greedily``.
    """
    temperature, top_p, top_k = jnp.asarray(rows.temperature), jnp.asarray(rows.top_p), jnp.asarray(rows.top_k)
    scaled = logits / jnp.where(temperature > 0, temperature, 1.0)[:, None]
    if rows.min_p is not None:
        scaled = _keep_likely(scaled, jnp.asarray(rows.min_p))
    scaled = jax.lax.cond(jnp.any(top_k > 0), lambda values: _keep_best(values, top_k), lambda values: values, scaled)
    scaled = jax.lax.cond(
        jnp.any(top_p < 1), lambda values: _keep_nucleus(values, top_p), lambda values: values, scaled
    )
    noise = jax.vmap(partial(_gumbel, logits.shape[-1]))(jnp.asarray(rows.seeds), jnp.asarray(rows.positions))
    drawn = jnp.argmax(scaled + noise, axis=-1)
    tokens = jnp.where(temperature > 0, drawn, jnp.argmax(logits, axis=-1))
    return _or_not_finite(tokens, logits if model is None else model)


@jax.jit
@scope("sample")
def edit(logits: Array | np.ndarray, edits: Edits) -> Array:
    """Logits with edits, float32 [B, V]: the logit bias, then the repetition penalty (arXiv 1909.05858), then those on
    presence and frequency, in the order of vLLM."""
    logits = jnp.asarray(logits)
    values = jnp.take_along_axis(logits, jnp.minimum(edits.ids, logits.shape[-1] - 1), axis=-1) + edits.bias
    values = jnp.where(values > 0, values / edits.repetition, values * edits.repetition) - edits.penalty
    return logits.at[jnp.arange(len(logits))[:, None], edits.ids].set(values, mode="drop")


@jax.jit
@scope("sample")
def keep_allowed(logits: Array | np.ndarray, allowed: Array) -> Array:
    """Remove what isn't allowed: float32 [B, V], one bit a token in int32 [B, V / 32], the first the lowest."""
    bits = (allowed[:, :, None] >> jnp.arange(32, dtype=jnp.int32)) & 1
    return jnp.where(bits.reshape(len(logits), -1)[:, : logits.shape[-1]] == 1, logits, _REMOVED)


def _or_not_finite(tokens: Array, logits: Array) -> Array:
    return jnp.where(jnp.all(jnp.isfinite(logits), axis=-1), tokens, NOT_FINITE).astype(jnp.int32)


@jax.jit
@scope("sample")
def log_probabilities(logits: Array, tokens: Array | np.ndarray) -> tuple[Array, Array, Array]:
    """Natural log-probabilities of ``tokens`` [B], and the ``MAX_LOGPROBS`` best tokens with theirs [B, best]."""
    normalized = jax.nn.log_softmax(logits, axis=-1)
    values, ids = jax.lax.top_k(normalized, min(MAX_LOGPROBS, logits.shape[-1]))
    return jnp.take_along_axis(normalized, tokens[:, None], axis=-1)[:, 0], values, ids


@jax.jit
@scope("sample")
def score(logits: Array, tokens: Array | np.ndarray) -> tuple[Array, Array, Array, Array]:
    """As ``log_probabilities``, with the place of each token among all, from 1, after its own log-probability."""
    chosen, values, ids = log_probabilities(logits, tokens)
    own = jnp.take_along_axis(logits, jnp.asarray(tokens)[:, None], axis=-1)
    return chosen, 1 + jnp.sum(logits > own, axis=-1), values, ids


def _gumbel(count: int, seed: Array, position: Array) -> Array:
    """Noise for one row. Adding it and taking the largest draws from the softmax (Gumbel 1954)."""
    return jax.random.gumbel(jax.random.fold_in(jax.random.key(seed), position), (count,), jnp.float32)


def _keep_likely(logits: Array, min_p: Array) -> Array:
    """Remove what is less likely than ``min_p`` of the likeliest (arXiv 2407.01082)."""
    least = jnp.max(logits, axis=-1) + jnp.log(min_p)
    return jnp.where(logits >= least[:, None], logits, _REMOVED)


def _keep_best(logits: Array, top_k: Array) -> Array:
    """Remove all but each row's ``top_k`` largest logits (0 keeps all; ties with the last one stay)."""
    wanted = jnp.where(top_k > 0, jnp.minimum(top_k, logits.shape[-1]), logits.shape[-1])
    ordered = _ordered(logits)
    threshold = _largest_threshold(logits.shape[0], lambda bits: jnp.sum(ordered >= bits[:, None], axis=-1) >= wanted)
    return jnp.where(ordered >= threshold[:, None], logits, _REMOVED)


def _keep_nucleus(logits: Array, top_p: Array) -> Array:
    """Remove all but the smallest set of likeliest tokens whose probability reaches ``top_p`` (arXiv 1904.09751)."""
    probabilities = jax.nn.softmax(logits, axis=-1)
    ordered = _ordered(probabilities)

    def reaches(bits: Array) -> Array:
        return jnp.sum(jnp.where(ordered >= bits[:, None], probabilities, 0.0), axis=-1) >= top_p

    threshold = jnp.where(top_p < 1, _largest_threshold(logits.shape[0], reaches), 0)
    best = ordered >= jnp.max(ordered, axis=-1, keepdims=True)  # rounding must not remove them all
    return jnp.where((ordered >= threshold[:, None]) | best, logits, _REMOVED)


def _ordered(values: Array) -> Array:
    """float32 as uint32 in the same order."""
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
    sign = jnp.uint32(0x80000000)
    return jnp.where(bits >= sign, ~bits, bits | sign)


def _largest_threshold(rows: int, holds: Callable[[Array], Array]) -> Array:
    """The largest uint32 [rows] for which ``holds`` is true, where it is true up to some value and false beyond.

    One bit at a time from the top: 32 passes over the vocabulary, which beats sorting it.
    """

    def step(index: int, found: Array) -> Array:
        candidate = found | (jnp.uint32(1) << (jnp.uint32(31) - jnp.uint32(index)))
        return jnp.where(holds(candidate), candidate, found)

    threshold: Array = jax.lax.fori_loop(0, 32, step, jnp.zeros((rows,), jnp.uint32))
    return threshold
