"""The decoder that all built-in families share, over any range of its layers: which parts are there, a geometry says.

Owns the block (norms, grouped-query attention with rotary positions, a gated MLP) and the shard that holds some blocks.
Doesn't know where their arrays come from (``decoder_weights``), how tokens are batched, or who owns the KV pages:
attention is handed in, so the cache-less and the paged path run the same block.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count, takewhile
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from helix_df.layers import LayerRange
from helix_df.models.attention import WHOLE_CONTEXT, AttentionView, attend_causally
from helix_df.models.experts import ExpertWeights, mix_experts, route
from helix_df.models.gated_mlp import gated_mlp
from helix_df.models.linear import Matrix, linear, take_rows
from helix_df.models.norms import rms_norm
from helix_df.models.rope import attention_factors, rope_frequencies, rope_tables, rotary_kind, rotate
from helix_df.models.scopes import scope
from helix_df.models.shares import averaged, own_number, side_by_side, summed
from helix_df.profiles.geometry import ModelGeometry

_Cache = TypeVar("_Cache")
Attention = Callable[[Array, Array, Array | None, AttentionView], tuple[Array, _Cache]]
"""Queries [B, T, heads, head_dim], keys, values [B, T, kv_heads, head_dim] → mixed [B, T, heads * head_dim], cache.

Without values, they are the first ``view.value_width`` numbers of keys."""

_LATENT_EPS = 1e-6
"""Of norms of latent vectors, whatever ``rms_norm_eps`` says of the others (transformers' ``DeepseekV3RMSNorm``)."""


class DecoderBlock(nnx.Module):  # type: ignore[misc]  # flax is untyped here
    """One decoder layer.

    Query, key and value projections lie in one matrix [(heads + 2 kv_heads) * head_dim, hidden], gate and up in
    another [2 * intermediate, hidden]: fewer, larger products. Each may lie in any layout of ``linear``.

    Args:
        geometry: of the model.
        layer: its number.
        parts: arrays by the names of ``layer_parts``; of a part in several (``linear.Matrix``), those after the first
            by ``part_name``.
    """

    def __init__(self, geometry: ModelGeometry, layer: int, parts: dict[str, Array]) -> None:
        self.geometry = geometry
        for name, array in parts.items():
            setattr(self, name, nnx.Param(array))
        # Where layers differ by these alone they are arrays, so that all share a program.
        if geometry.attention.windows:
            self.window = nnx.Param(jnp.int32(geometry.attention.window(layer) or WHOLE_CONTEXT))
        if len(attention_factors(geometry)) > 1:
            self.rotary_kind = nnx.Param(jnp.int32(rotary_kind(geometry, layer)))

    def __call__(self, hidden: Array, cos: Array, sin: Array, attention: Attention[_Cache]) -> tuple[Array, _Cache]:
        """``hidden`` [B, T, hidden] through this layer; ``cos`` and ``sin`` as ``rope_tables`` gives them."""
        scale = self.geometry.block.residual_scale
        attend = self._attend_to_latents if self.geometry.latent.rank else self._attend
        with scope("attention"):
            cos, sin = self._of_this_kind(cos), self._of_this_kind(sin)
            mixed, cache = attend(self._normed("attention_norm", hidden), cos, sin, attention)
            hidden = _added(hidden, self._normed("attention_post_norm", self._output(mixed)), scale)
        with scope("mlp"):
            passed = self._whole(self._mlp(self._normed("mlp_norm", hidden)))
            return _added(hidden, self._normed("mlp_post_norm", passed), scale), cache

    @scope("output")
    def _output(self, mixed: Array) -> Array:
        """What heads have mixed [B, T, heads * width] → [B, T, hidden]."""
        mixed = self._whole(linear(mixed, self._matrix("output")))
        return mixed + self.output_bias[...] if self._holds("output_bias") else mixed

    def _whole(self, partial: Array) -> Array:
        """What all devices that share this layer have, added."""
        return summed(partial) if self.geometry.shares > 1 else partial

    def _attend(self, normed: Array, cos: Array, sin: Array, attention: Attention[_Cache]) -> tuple[Array, _Cache]:
        queries, keys, values = self._project(normed)
        return attention(rotate(queries, cos, sin), rotate(keys, cos, sin), values, self._view())

    def _attend_to_latents(
        self, normed: Array, cos: Array, sin: Array, attention: Attention[_Cache]
    ) -> tuple[Array, _Cache]:
        """Queries are taken to where latents are, and what they mix from there to values (arXiv 2405.04434, 2.1.2).

        So one vector of each token is key and value of all heads, and nothing else is kept.
        """
        latent, heads = self.geometry.latent, self.geometry.num_heads
        still = self.geometry.head_dim - latent.rotated
        with scope("qkv"):
            queries = self._queries(normed).reshape(*normed.shape[:2], heads, -1)
            latents, rotated = jnp.split(linear(normed, self._matrix("latent_down")), (latent.rank,), axis=-1)
            latents = rms_norm(latents, self.latent_norm[...], _LATENT_EPS)
        up = self.latent_up[...].reshape(heads, -1, latent.rank)
        with scope("latents"):
            taken = jnp.einsum("bthd,hdr->bthr", queries[..., :still], up[:, :still])
        keys = jnp.concatenate([latents[:, :, None], rotate(rotated[:, :, None], cos, sin)], axis=-1)
        queries = jnp.concatenate([taken, rotate(queries[..., still:], cos, sin)], axis=-1)
        mixed, cache = attention(queries, keys, None, self._view()._replace(value_width=latent.rank))
        with scope("latents"):
            of_heads = mixed.reshape(*normed.shape[:2], heads, latent.rank)
            values = jnp.einsum("bthr,hvr->bthv", of_heads, up[:, still:])
            return values.reshape(*normed.shape[:2], -1), cache

    def _queries(self, normed: Array) -> Array:
        """Of latent attention, [B, T, heads * head_dim]."""
        if not self.geometry.latent.query_rank:
            return linear(normed, self._matrix("query"))
        short = linear(normed, self._matrix("query_down"))
        return linear(rms_norm(short, self.query_latent_norm[...], _LATENT_EPS), self._matrix("query_up"))

    def _mlp(self, normed: Array) -> Array:
        options, activation = self.geometry.experts, self.geometry.block.activation
        if self._holds("router"):
            correction = self._maybe("router_correction")
            routed = route(normed, self.router[...], options, self._maybe("router_bias"), correction)
            held = ExpertWeights(
                self._matrix("expert_gate_up"),
                self._matrix("expert_down"),
                self._maybe("expert_gate_up_bias"),
                self._maybe("expert_down_bias"),
            )
            mixed = mix_experts(normed, routed, held, activation)
            return mixed + self._shared(normed) if options.shared else mixed
        return gated_mlp(normed, self._matrix("gate_up"), self._matrix("down"), activation)

    @scope("shared_expert")
    def _shared(self, normed: Array) -> Array:
        """Through the MLP that every token passes beside its experts."""
        gate_up, down = self._matrix("shared_gate_up"), self._matrix("shared_down")
        passed = gated_mlp(normed, gate_up, down, self.geometry.block.activation)
        gate = self._maybe("shared_gate")
        return passed if gate is None else jax.nn.sigmoid(normed @ gate.T) * passed

    @scope("qkv")
    def _project(self, normed: Array) -> tuple[Array, Array, Array]:
        shape, batch = self.geometry, normed.shape[:2]
        flat = linear(normed, self._matrix("qkv"))
        if self._holds("qkv_bias"):
            flat = flat + self.qkv_bias[...]
        heads = flat.reshape(*batch, -1, shape.head_dim)
        queries, keys, values = jnp.split(heads, (shape.num_heads, shape.num_heads + shape.num_kv_heads), axis=2)
        return self._normed_heads("query_norm", queries), self._normed_heads("key_norm", keys), values

    def _normed(self, name: str, hidden: Array) -> Array:
        """Through a norm, where this family has it."""
        if not self._holds(name):
            return hidden
        return rms_norm(hidden, getattr(self, name)[...], self.geometry.rms_norm_eps)

    def _normed_heads(self, name: str, heads: Array) -> Array:
        """[B, T, n, head_dim] through a norm of each head, or of all as one vector."""
        shared = self.geometry.shares > 1
        if self.geometry.attention.query_key_norm == "projection":
            flat = heads.reshape(*heads.shape[:2], -1)
            weight, epsilon = getattr(self, name)[...], self.geometry.rms_norm_eps
            normed = rms_norm(flat, weight, epsilon, averaged) if shared else rms_norm(flat, weight, epsilon)
            return normed.reshape(heads.shape)
        return self._normed(name, heads)

    def _of_this_kind(self, table: Array) -> Array:
        """[B, T, kinds, dims / 2] → [B, T, dims / 2]."""
        return table[:, :, self.rotary_kind[...]] if self._holds("rotary_kind") else table[:, :, 0]

    def _view(self) -> AttentionView:
        options = self.geometry.attention
        scale = options.scale or self.geometry.head_dim**-0.5
        return AttentionView(scale, options.softcap, self._maybe("window"), self._maybe("sinks"))

    def _matrix(self, name: str) -> Matrix:
        """A part that may be in several."""
        later = (part_name(name, place) for place in count(1))
        each = [name, *takewhile(self._holds, later)]
        arrays: list[Array] = [getattr(self, one)[...] for one in each]
        return arrays[0] if len(arrays) == 1 else tuple(arrays)

    def _maybe(self, name: str) -> Array | None:
        """A part that not all families have."""
        part: Array | None = getattr(self, name)[...] if self._holds(name) else None
        return part

    def _holds(self, name: str) -> bool:
        return hasattr(self, name)


def part_name(part: str, place: int) -> str:
    """The name of a part's array at ``place``, of several one below the other."""
    return f"{part}_{place}" if place else part


def _added(hidden: Array, passed: Array, scale: float) -> Array:
    return hidden + (passed if scale == 1 else passed * scale)


class DecoderShard(nnx.Module):  # type: ignore[misc]  # flax is untyped here
    """The layers ``layers`` of a model, with the embedding if they start it and the head if they end it.

    ``embedding`` [vocab, hidden] is held by the first shard, and by the last one too when the head is tied to it;
    ``final_norm`` and ``head`` [vocab, hidden] by the last. Otherwise they are None. Both matrices may lie in any
    layout of ``linear``. ``dtype`` is that of activations; by default the weights'.
    """

    def __init__(
        self,
        geometry: ModelGeometry,
        layers: LayerRange,
        blocks: tuple[DecoderBlock, ...],
        *,
        embedding: Array | None = None,
        final_norm: Array | None = None,
        head: Array | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        self.geometry = geometry
        self.layers = layers
        self.dtype = jnp.dtype(blocks[0].output[...].dtype if dtype is None else dtype)
        self.blocks = nnx.List(blocks)
        self.embedding = None if embedding is None else nnx.Param(embedding)
        self.final_norm = None if final_norm is None else nnx.Param(final_norm)
        self.head = None if head is None else nnx.Param(head)

    @property
    def is_first(self) -> bool:
        """Whether this shard starts from token ids."""
        return self.layers.start == 0

    @property
    def is_last(self) -> bool:
        """Whether this shard ends in logits."""
        return self.layers.stop == self.geometry.num_layers

    @scope("embed")
    def embed(self, tokens: Array) -> Array:
        """Token ids [B, T] → hidden [B, T, hidden]. Only on the first shard."""
        rows = self._rows(_held(self.embedding, "embedding"), tokens).astype(self.dtype)
        scale = self.geometry.ends.embedding_scale
        return rows if scale == 1 else rows * jnp.asarray(scale, rows.dtype)

    def _rows(self, embedding: Array, tokens: Array) -> Array:
        width = self.geometry.hidden_size
        if self.geometry.shares == 1:
            return take_rows(embedding, tokens)[..., :width]
        own = tokens - own_number() * self.geometry.vocab_size
        held = (own >= 0) & (own < self.geometry.vocab_size)
        return summed(jnp.where(held[..., None], take_rows(embedding, own)[..., :width], 0))

    def normed(self, hidden: Array) -> Array:
        """Hidden [..., hidden] → the same after the final norm, which heads and embeddings of text take. Only on the
        last shard."""
        return rms_norm(hidden, _held(self.final_norm, "final norm"), self.geometry.rms_norm_eps)

    @scope("logits")
    def logits(self, hidden: Array) -> Array:
        """Hidden [..., hidden] → float32 logits [..., vocab]. Only on the last shard."""
        ends = self.geometry.ends
        head = self.embedding if self.head is None else self.head
        logits = linear(self.normed(hidden), _held(head, "head")).astype(jnp.float32)
        if self.geometry.shares > 1:
            logits = side_by_side(logits)
        if ends.logits_divisor != 1:
            logits = logits / ends.logits_divisor
        return logits if ends.logits_softcap is None else ends.logits_softcap * jnp.tanh(logits / ends.logits_softcap)

    def __call__(self, inputs: Array, positions: Array | None = None) -> Array:
        """The shard without a cache: for tests, notebooks and as the standard that the engine is held to.

        Args:
            inputs: token ids [B, T] on the first shard, hidden [B, T, hidden] on the others.
            positions: [B, T]; default 0, 1, …

        Returns:
            logits [B, T, vocab] on the last shard, hidden [B, T, hidden] on the others.
        """
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(inputs.shape[1], dtype=jnp.int32), inputs.shape[:2])
        hidden = self.embed(inputs) if self.is_first else inputs
        cos, sin = rope_tables(rope_frequencies(self.geometry), positions, attention_factors(self.geometry))
        for block in self.blocks:
            hidden, _ = block(hidden, cos, sin, lambda q, k, v, view: (attend_causally(q, k, v, view, positions), None))
        return self.logits(hidden) if self.is_last else hidden


def _held(parameter: Any, name: str) -> Array:
    if parameter is None:
        raise ValueError(f"this shard doesn't hold the {name}")
    weight: Array = parameter[...]
    return weight
