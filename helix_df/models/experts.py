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

from helix_df.models.gated_mlp import ACTIVATIONS
from helix_df.profiles.geometry import ExpertOptions

BLOCK = 16
"""Rows of a block: reading an expert's weights takes longer than multiplying so many rows by them."""


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


def route(hidden: Array, router: Array, options: ExpertOptions) -> Routed:
    """The experts of each token of ``hidden`` [..., hidden], by the softmax of the ``router`` [experts, hidden]."""
    logits = hidden.reshape(-1, hidden.shape[-1]) @ router.T
    weights, experts = jax.lax.top_k(jax.nn.softmax(logits.astype(jnp.float32), axis=-1), options.used)
    if options.normalized:
        weights = weights / weights.sum(axis=-1, keepdims=True)
    return Routed(experts.astype(jnp.int32), weights)


def mix_experts(hidden: Array, routed: Routed, gate_up: Array, down: Array, activation: str) -> Array:
    """Each token through its experts, and what comes out weighed and added.

    Args:
        hidden: [..., hidden].
        routed: of all tokens in order.
        gate_up: [experts, 2 * inner, hidden].
        down: [experts, hidden, inner].
        activation: of the gate.

    Returns:
        as ``hidden``.
    """
    flat = hidden.reshape(-1, hidden.shape[-1])
    tokens, used = routed.experts.shape
    blocks = _in_blocks(routed.experts.reshape(-1), len(gate_up))
    padded = jnp.concatenate([flat, jnp.zeros((1, flat.shape[1]), flat.dtype)])
    shares = jnp.concatenate([routed.weights.reshape(-1), jnp.zeros(1, jnp.float32)])

    def through(index: Array, mixed: Array) -> Array:
        rows = jax.lax.dynamic_slice_in_dim(blocks.rows, index * BLOCK, BLOCK)
        # The row after the last is none's: zeros, which add nothing.
        at = jnp.where(rows < tokens * used, rows // used, tokens)
        expert = blocks.experts[index]
        gate, up = jnp.split(padded[at] @ gate_up[expert].T, 2, axis=-1)
        passed = (ACTIVATIONS[activation](gate) * up) @ down[expert].T
        return mixed.at[at].add(passed.astype(jnp.float32) * shares[rows][:, None])

    start = jnp.zeros(padded.shape, jnp.float32)
    mixed: Array = jax.lax.fori_loop(0, blocks.filled, through, start)
    return mixed[:tokens].astype(hidden.dtype).reshape(hidden.shape)


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
