"""A mixture of experts: a router picks some MLPs for each token (arXiv 1701.06538, 2101.03961).

Owns the router and which token passes which expert. Tokens of an expert are brought together in blocks of few rows,
each of one expert, as in MegaBlocks (arXiv 2211.15841): nobody is dropped, an expert that no token picks isn't read,
and the number of blocks, not the number of experts, makes the time. Doesn't know how other weights are laid out.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from helix_df.models.gated_mlp import GATES
from helix_df.models.linear import Matrix, linear
from helix_df.models.scopes import scope
from helix_df.profiles.geometry import ExpertOptions

BLOCK = 16
"""Rows of a block: reading an expert's weights takes longer than multiplying so many rows by them."""


_TINY = 1e-20
"""So that weights which are all zero stay zero, as in transformers."""


class Routed(NamedTuple):
    """Of each token the experts that it passes, int32 [N, used], and their weights, float32 [N, used]."""

    experts: Array
    weights: Array


class _Blocks(NamedTuple):
    """Places in blocks: which row [slots] stands there (``N * used`` for none), and each block's expert [blocks].

    ``filled`` [] is how many blocks hold anything.
    """

    rows: Array
    experts: Array
    filled: Array


class ExpertWeights(NamedTuple):
    """All experts of a layer: ``gate_up`` [experts, 2 * inner, hidden], ``down`` [experts, hidden, inner].

    Each expert's may lie in any layout of ``linear``. Biases are [experts, 2 * inner] and [experts, hidden].
    """

    gate_up: Matrix
    down: Matrix
    gate_up_bias: Array | None = None
    down_bias: Array | None = None


@scope("router")
def route(
    hidden: Array, router: Array, options: ExpertOptions, bias: Array | None = None, correction: Array | None = None
) -> Routed:
    """The experts of each token of ``hidden`` [..., hidden], by what the ``router`` [experts, hidden] says.

    ``bias`` [experts] is added to that, ``correction`` [experts] to the weights that follow from it, and only where
    experts are picked (arXiv 2408.15664).
    """
    logits = (hidden.reshape(-1, hidden.shape[-1]) @ router.T).astype(jnp.float32)
    if bias is not None:
        logits = logits + bias
    scores = jax.nn.sigmoid(logits) if options.scoring == "sigmoid" else jax.nn.softmax(logits, axis=-1)
    judged = scores if correction is None else scores + correction.astype(jnp.float32)
    _, experts = jax.lax.top_k(_in_best_groups(judged, options), options.used)
    weights = jnp.take_along_axis(scores, experts, axis=-1)
    if options.normalized:
        weights = weights / (weights.sum(axis=-1, keepdims=True) + _TINY)
    return Routed(experts.astype(jnp.int32), weights * options.scale)


def _in_best_groups(judged: Array, options: ExpertOptions) -> Array:
    """``judged`` [N, experts], less than anything outside each token's best groups (arXiv 2405.04434, 2412.19437)."""
    if options.used_groups == options.groups:
        return judged
    grouped = judged.reshape(len(judged), options.groups, -1)
    best = jax.lax.top_k(grouped, 2)[0].sum(axis=-1) if options.by_two else grouped.max(axis=-1)
    chosen = jax.nn.one_hot(jax.lax.top_k(best, options.used_groups)[1], options.groups).sum(axis=1) > 0
    return jnp.where(chosen[:, :, None], grouped, -jnp.inf).reshape(judged.shape)


@scope("experts")
def mix_experts(hidden: Array, routed: Routed, held: ExpertWeights, activation: str) -> Array:
    """Each token through its experts, and what comes out weighed and added.

    Args:
        hidden: [..., hidden].
        routed: of all tokens in order.
        held: the experts.
        activation: of the gate.

    Returns:
        as ``hidden``.
    """
    flat = hidden.reshape(-1, hidden.shape[-1])
    tokens, used = routed.experts.shape
    blocks = _in_blocks(routed.experts.reshape(-1), len(_each(held.gate_up)[0]))
    padded = jnp.concatenate([flat, jnp.zeros((1, flat.shape[1]), flat.dtype)])
    shares = jnp.concatenate([routed.weights.reshape(-1), jnp.zeros(1, jnp.float32)])

    def through(index: Array, mixed: Array) -> Array:
        rows = jax.lax.dynamic_slice_in_dim(blocks.rows, index * BLOCK, BLOCK)
        # The row after the last is none's: zeros, which add nothing.
        at = jnp.where(rows < tokens * used, rows // used, tokens)
        expert = blocks.experts[index]
        gate, up = jnp.split(_plus(_times(padded[at], held.gate_up, expert), held.gate_up_bias, expert), 2, axis=-1)
        passed = _plus(_times(GATES[activation](gate, up), held.down, expert), held.down_bias, expert)
        return mixed.at[at].add(passed.astype(jnp.float32) * shares[rows][:, None])

    start = jnp.zeros(padded.shape, jnp.float32)
    mixed: Array = jax.lax.fori_loop(0, blocks.filled, through, start)
    return mixed[:tokens].astype(hidden.dtype).reshape(hidden.shape)


def _plus(product: Array, biases: Array | None, expert: Array) -> Array:
    return product if biases is None else product + biases[expert]


def _each(weights: Matrix) -> tuple[Array, ...]:
    return weights if isinstance(weights, tuple) else (weights,)


def _times(rows: Array, weights: Matrix, expert: Array) -> Array:
    own = tuple(weight[expert] for weight in _each(weights))
    if len(own) > 1 or own[0].ndim == 3 or own[0].dtype != rows.dtype:
        return linear(rows, own)
    return rows @ own[0].T


def _in_blocks(chosen: Array, experts: int) -> _Blocks:
    """Rows that chose the same expert, int32 [rows], beside each other in blocks that no two experts share."""
    rows = len(chosen)
    most = min(rows, -(-rows // BLOCK) + experts)
    order = jnp.argsort(chosen, stable=True)
    each = jnp.bincount(chosen, length=experts)
    blocks = -(-each // BLOCK)
    first_block = jnp.cumsum(blocks) - blocks
    first_row = jnp.cumsum(each) - each
    of_row = chosen[order]
    place = first_block[of_row] * BLOCK + jnp.arange(rows) - first_row[of_row]
    placed = jnp.full(most * BLOCK, rows, jnp.int32).at[place].set(order.astype(jnp.int32))
    owner = jnp.searchsorted(jnp.cumsum(blocks), jnp.arange(most), side="right")
    return _Blocks(placed, jnp.minimum(owner, experts - 1).astype(jnp.int32), blocks.sum())
