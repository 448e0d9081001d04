"""The Llama decoder (arXiv 2302.13971, 2307.09288, 2407.21783) over any range of its layers.

Owns the block (RMSNorm, grouped-query attention with rotary positions, SwiGLU), the shard that holds some blocks, and
which checkpoint tensor goes where in them. Doesn't know where tensors come from, how tokens are batched, or who
owns the KV pages: attention is handed in, so the cache-less and the paged path run the same block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from helix_df.layers import LayerRange
from helix_df.models.attention import attend_causally
from helix_df.models.linear import Layout, lay_out, linear, take_rows
from helix_df.models.reader import WeightReader
from helix_df.models.rope import rope_frequencies, rope_tables, rotate
from helix_df.profiles.geometry import ModelGeometry
from helix_df.profiles.tensor_names import EMBEDDING, FINAL_NORM, HEAD, model_tensors

_Cache = TypeVar("_Cache")
Attention = Callable[[Array, Array, Array], tuple[Array, _Cache]]
"""Queries [B, T, heads, head_dim], keys, values [B, T, kv_heads, head_dim] → mixed [B, T, heads * head_dim], cache."""


def rms_norm(hidden: Array, weight: Array, epsilon: float) -> Array:
    """Divide by the root mean square of the last axis, in float32, and scale (arXiv 1910.07467)."""
    exact = hidden.astype(jnp.float32)
    exact = exact * jax.lax.rsqrt(jnp.mean(exact * exact, axis=-1, keepdims=True) + epsilon)
    return weight * exact.astype(hidden.dtype)


class LlamaBlock(nnx.Module):  # type: ignore[misc]  # flax is untyped here
    """One decoder layer.

    Query, key and value projections lie in one matrix [(heads + 2 kv_heads) * head_dim, hidden], gate and up in
    another [2 * intermediate, hidden]: fewer, larger products. Each may lie in rows or in panels (``linear``).
    """

    def __init__(
        self,
        geometry: ModelGeometry,
        *,
        attention_norm: Array,
        qkv: Array,
        output: Array,
        mlp_norm: Array,
        gate_up: Array,
        down: Array,
    ) -> None:
        self.geometry = geometry
        self.attention_norm = nnx.Param(attention_norm)
        self.qkv = nnx.Param(qkv)
        self.output = nnx.Param(output)
        self.mlp_norm = nnx.Param(mlp_norm)
        self.gate_up = nnx.Param(gate_up)
        self.down = nnx.Param(down)

    def __call__(self, hidden: Array, cos: Array, sin: Array, attention: Attention[_Cache]) -> tuple[Array, _Cache]:
        """``hidden`` [B, T, hidden] through this layer; ``cos`` and ``sin`` as ``rope_tables`` gives them."""
        epsilon = self.geometry.rms_norm_eps
        queries, keys, values = self._project(rms_norm(hidden, self.attention_norm[...], epsilon))
        mixed, cache = attention(rotate(queries, cos, sin), rotate(keys, cos, sin), values)
        hidden = hidden + linear(mixed, self.output[...])
        gate, up = jnp.split(linear(rms_norm(hidden, self.mlp_norm[...], epsilon), self.gate_up[...]), 2, axis=-1)
        return hidden + linear(jax.nn.silu(gate) * up, self.down[...]), cache

    def _project(self, normed: Array) -> tuple[Array, Array, Array]:
        shape, batch = self.geometry, normed.shape[:2]
        heads = linear(normed, self.qkv[...]).reshape(*batch, -1, shape.head_dim)
        queries, keys, values = jnp.split(heads, (shape.num_heads, shape.num_heads + shape.num_kv_heads), axis=2)
        return queries, keys, values


class LlamaShard(nnx.Module):  # type: ignore[misc]  # flax is untyped here
    """The layers ``layers`` of a Llama, with the embedding if they start the model and the head if they end it.

    ``embedding`` [vocab, hidden] is held by the first shard, and by the last one too when the head is tied to it;
    ``final_norm`` and ``head`` [vocab, hidden] by the last. Otherwise they are None. Both may lie in panels.
    """

    def __init__(
        self,
        geometry: ModelGeometry,
        layers: LayerRange,
        blocks: tuple[LlamaBlock, ...],
        *,
        embedding: Array | None = None,
        final_norm: Array | None = None,
        head: Array | None = None,
    ) -> None:
        self.geometry = geometry
        self.layers = layers
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

    def embed(self, tokens: Array) -> Array:
        """Token ids [B, T] → hidden [B, T, hidden]. Only on the first shard."""
        return take_rows(_held(self.embedding, "embedding"), tokens)

    def logits(self, hidden: Array) -> Array:
        """Hidden [..., hidden] → float32 logits [..., vocab]. Only on the last shard."""
        normed = rms_norm(hidden, _held(self.final_norm, "final norm"), self.geometry.rms_norm_eps)
        head = self.embedding if self.head is None else self.head
        return linear(normed, _held(head, "head")).astype(jnp.float32)

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
        cos, sin = rope_tables(rope_frequencies(self.geometry), positions)
        for block in self.blocks:
            hidden, _ = block(hidden, cos, sin, lambda q, k, v: (attend_causally(q, k, v, positions), None))
        return self.logits(hidden) if self.is_last else hidden


def _held(parameter: Any, name: str) -> Array:
    if parameter is None:
        raise ValueError(f"this shard doesn't hold the {name}")
    weight: Array = parameter[...]
    return weight


def build_llama(
    reader: WeightReader, geometry: ModelGeometry, layers: LayerRange, dtype: DTypeLike, layout: Layout
) -> LlamaShard:
    """The shard of ``layers``, reading only the tensors that it holds, with its matrices in ``layout``.

    Raises:
        ModelError: when a tensor is missing or of another shape.
        ValueError: when ``layers`` reaches beyond the model.
    """
    if layers.stop > geometry.num_layers:
        raise ValueError(f"layers {layers} of a model with {geometry.num_layers}")
    shapes = model_tensors(geometry, layers)

    def read(name: str) -> np.ndarray:
        return reader.tensor(name, shapes[name])

    def matrix(name: str, layout: Layout) -> Array | None:
        return jnp.asarray(lay_out(read(name), layout), dtype) if name in shapes else None

    as_head = layers.stop == geometry.num_layers and geometry.tie_embeddings
    return LlamaShard(
        geometry,
        layers,
        tuple(_build_block(read, geometry, layer, dtype, layout) for layer in range(layers.start, layers.stop)),
        # Looking rows up wants rows; only where it is the head, too, is it a factor of products.
        embedding=matrix(EMBEDDING, layout if as_head else "rows"),
        final_norm=jnp.asarray(read(FINAL_NORM), dtype) if FINAL_NORM in shapes else None,
        head=matrix(HEAD, layout),
    )


def _build_block(
    read_tensor: Callable[[str], np.ndarray], geometry: ModelGeometry, layer: int, dtype: DTypeLike, layout: Layout
) -> LlamaBlock:
    def read(name: str) -> np.ndarray:
        return read_tensor(f"model.layers.{layer}.{name}.weight")

    def matrix(*names: str) -> Array:
        return jnp.asarray(lay_out(np.concatenate([read(name) for name in names]), layout), dtype)

    return LlamaBlock(
        geometry,
        attention_norm=jnp.asarray(read("input_layernorm"), dtype),
        qkv=matrix("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        output=matrix("self_attn.o_proj"),
        mlp_norm=jnp.asarray(read("post_attention_layernorm"), dtype),
        gate_up=matrix("mlp.gate_proj", "mlp.up_proj"),
        down=matrix("mlp.down_proj"),
    )
