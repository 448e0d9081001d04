"""The compiled programs of one shard and the arrays they run on.

Owns the shard's weights as flat leaves, the KV pools, and the jitted functions over them. Doesn't know requests or
pages' owners. Every program takes its weights as arguments, so all layers share one compilation; the pools and the
hidden state are donated, so a step writes its keys and values in place.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any, TypedDict, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from helix_df.layers import LayerRange
from helix_df.models.attention import (
    AttentionView,
    PagedBatch,
    attend_in_pages,
    attend_to_pages,
    page_rows,
    write_pages,
)
from helix_df.models.decoder import DecoderShard
from helix_df.models.kv_cache import PagedCache, blank_cache
from helix_df.models.rope import attention_factors, rope_frequencies, rope_tables
from helix_df.models.scopes import scope
from helix_df.models.tensor_parallel import SharedShard
from helix_df.profiles.attention_kernels import AttentionChoice
from helix_df.profiles.kv_formats import KvFormat
from helix_df.runtime.worker.devices import Devices, devices_of

_Leaves = tuple[Array, ...]


class _Paged(TypedDict):
    """How attention goes over pages; see ``attend_in_pages``."""

    pages_at_once: int | None
    choice: AttentionChoice


class ShardPrograms:
    """Runs padded batches through a shard.

    Args:
        shard: the layers and their weights.
        num_pages: pages of each layer's pool, scratch page included; of the pool of all where each has a table.
        num_tables: 1 where all layers go by the same table of pages, else one for each.
        page_tokens: tokens a page.
        layers_per_call: most layers unrolled in one program. A range is run in powers of two up to it, so any range
            needs few programs; more layers a program run some per cent faster and compile longer.
        pages_at_once: see ``attend_in_pages``.
        max_context: the longest that a request gets; default the model's.
        kv: format of the pools; default that of activations.
        attention: which kernels are asked for.
    """

    def __init__(
        self,
        shard: DecoderShard | SharedShard,
        *,
        num_pages: int,
        page_tokens: int,
        layers_per_call: int,
        num_tables: int = 1,
        pages_at_once: int | None = None,
        max_context: int | None = None,
        kv: KvFormat | None = None,
        attention: AttentionChoice = AttentionChoice(),  # noqa: B008  # it is frozen
    ) -> None:
        self.layers = shard.layers
        self.num_layers = shard.geometry.num_layers
        self.layers_per_call = layers_per_call
        devices, shares = devices_of(shard)
        own = shares[0]
        blocks = [[nnx.split(block) for block in share.blocks] for share in shares]
        self._leaves: list[_Leaves] = [
            devices.across([tuple(jax.tree.leaves(state)) for _, state in one]) for one in zip(*blocks, strict=True)
        ]
        self.dtype = own.dtype
        kind = kv or cast(KvFormat, own.dtype.name)
        pools = 1 if num_tables > 1 else len(self._leaves)
        self._caches = [blank_cache(own.geometry, kind, num_pages, page_tokens, devices.zeros) for _ in range(pools)]
        self._shares_pool = num_tables > 1
        """Whether layers take pages of one pool, each by a table of its own."""
        self._kinds: list[Hashable] = [jax.tree.structure(state) for _, state in blocks[0]]
        """Layers of a kind, which have the same arrays, share programs."""
        each = {
            kind: (graph, jax.tree.structure(state))
            for kind, (graph, state) in zip(self._kinds, blocks[0], strict=True)
        }
        paged = _Paged(pages_at_once=pages_at_once, choice=attention)
        self._run_layers = {kind: _layers_program(*one, paged, devices) for kind, one in each.items()}
        self._run_mixed = {kind: _mixed_program(*one, paged, devices) for kind, one in each.items()}
        self._prepare = _prepare_program(own, num_pages, page_tokens, max_context, devices)
        ends = [nnx.split(_ends_of(share)) for share in shares]
        self._ends = devices.across([state for _, state in ends])
        self._embed, self._logits, self._pooled = _end_programs(ends[0][0], shard.geometry.vocab_size, devices)
        self._devices = devices
        self.compiled: set[tuple[Hashable, ...]] = set()
        """Programs compiled so far, or loaded from the compile cache: what each does and its shapes."""

    @property
    def compilations(self) -> int:
        """How many programs were compiled so far, or loaded from the compile cache."""
        return len(self.compiled)

    def compile(
        self, inputs: np.ndarray, tables: np.ndarray, starts: np.ndarray, lengths: np.ndarray, *, every: bool
    ) -> Any:
        """Compile what a batch of these arrays runs, in all layers that are held; runs nothing, and in any thread.

        Logits are those of ``every`` token, or of the last one of each row. On several devices nothing is compiled
        before it runs. Returns what logits look like; None where there are none.
        """
        if self._devices.same_for_all is not None:
            return None
        hidden: Any = inputs
        if self.layers.start == 0:
            hidden = _compiled(self._embed, self._ends, inputs)
        hidden = _likeness(hidden)
        batch = _compiled(self._prepare, tables, starts, lengths, inputs.shape[1])
        at, stop = 0, len(self._kinds)
        done = set()
        while at < stop:
            kind, count = self._kinds[at], self._layers_at_once(at, stop)
            if (kind, count) not in done:
                done.add((kind, count))
                pools = tuple(self._caches[self._pools_of(at, count)])
                _compiled(
                    self._run_layers[kind], tuple(self._leaves[at : at + count]), pools, hidden, batch, np.int32(at)
                )
            at += count
        if self.layers.stop < self.num_layers:
            return None
        if every:
            tokens = hidden.shape[0] * hidden.shape[1]
            hidden = _likeness(hidden, (tokens, 1, hidden.shape[2]))
            lengths = np.ones(tokens, np.int32)
        return _compiled(self._logits, self._ends, hidden, lengths)

    def embed(self, tokens: np.ndarray) -> Array:
        """int32 [B, T] → hidden [B, T, hidden]."""
        self._count("embed", tokens.shape)
        hidden: Array = self._embed(self._ends, tokens)
        return hidden

    def prepare(self, tables: np.ndarray, starts: np.ndarray, lengths: np.ndarray, tokens: int) -> PagedBatch:
        """What every layer needs to know of a batch of ``tokens`` columns; see ``page_rows`` for the arrays.

        ``tables`` [tables, B, P], and so ``write_rows`` and ``read_pages`` have another axis in front.
        """
        self._count("prepare", tables.shape, tokens)
        batch: PagedBatch = self._prepare(tables, starts, lengths, tokens)
        return batch

    def run_layers(self, hidden: Array | np.ndarray, batch: PagedBatch, layers: LayerRange) -> Array:
        """``hidden`` [B, T, hidden] through ``layers`` (absolute numbers), updating their pools."""
        at, stop = layers.start - self.layers.start, layers.stop - self.layers.start
        state = self._devices.placed(hidden)
        while at < stop:
            kind, count = self._kinds[at], self._layers_at_once(at, stop)
            self._count("layers", kind, count, state.shape, batch.read_pages.shape)
            pools = self._pools_of(at, count)
            state, self._caches[pools] = self._run_layers[kind](
                tuple(self._leaves[at : at + count]), tuple(self._caches[pools]), state, batch, np.int32(at)
            )
            at += count
        return state

    def run_mixed(
        self,
        decodes: Array | np.ndarray,
        piece: Array | np.ndarray,
        batches: tuple[PagedBatch, PagedBatch],
        layers: LayerRange,
    ) -> tuple[Array, Array]:
        """Decode steps [B, 1, hidden] and a piece of a prompt [1, T, hidden] in one pass over the weights.

        Args:
            decodes: hidden states of the steps.
            piece: of the piece, of another request than theirs.
            batches: of the steps, and of the piece.
            layers: absolute numbers, as in ``run_layers``.
        """
        at, stop = layers.start - self.layers.start, layers.stop - self.layers.start
        states = self._devices.placed(decodes), self._devices.placed(piece)
        while at < stop:
            kind, count = self._kinds[at], self._layers_at_once(at, stop)
            pages = tuple(batch.read_pages.shape for batch in batches)
            self._count("mixed", kind, count, states[0].shape, states[1].shape, pages)
            pools = self._pools_of(at, count)
            *states, self._caches[pools] = self._run_mixed[kind](
                tuple(self._leaves[at : at + count]), tuple(self._caches[pools]), *states, *batches, np.int32(at)
            )
            at += count
        return states[0], states[1]

    def last_logits(self, hidden: Array, lengths: np.ndarray) -> Array:
        """float32 [B, vocab] of each row's last real token."""
        self._count("logits", hidden.shape)
        logits: Array = self._logits(self._ends, hidden, lengths)
        return logits

    def every_logits(self, hidden: Array) -> Array:
        """float32 [B * T, vocab] of all tokens of ``hidden`` [B, T, hidden], row by row."""
        states = hidden.reshape(-1, 1, hidden.shape[-1])
        return self.last_logits(states, np.ones(len(states), np.int32))

    def each_logits(self, states: np.ndarray) -> Array:
        """float32 [T, vocab] of hidden states [T, hidden]."""
        return self.last_logits(self._devices.placed(states[:, None]), np.ones(len(states), np.int32))

    def pooled(self, hidden: Array, row: int, start: int, stop: int) -> Array:
        """float32 [hidden]: the sum over columns ``start`` to ``stop`` of a row of [B, T, hidden], normed."""
        self._count("pooled", hidden.shape)
        total: Array = self._pooled(self._ends, hidden, np.array([row, start, stop], np.int32))
        return total

    def blank(self, pages: Sequence[int]) -> None:
        """Fill pages of every layer with zeros."""
        for page in pages:
            self._caches = [jax.tree.map(lambda pool, page=page: _blank(pool, page), cache) for cache in self._caches]

    def pool_pointers(self) -> tuple[int, ...]:
        """Device addresses of the key pools: they stay the same as long as donation works."""
        pools = [cache.keys.numbers for cache in self._caches]
        return tuple(share.data.unsafe_buffer_pointer() for pool in pools for share in pool.addressable_shards)

    def _pools_of(self, at: int, count: int) -> slice:
        """Which of the pools layers take pages from."""
        return slice(0, 1) if self._shares_pool else slice(at, at + count)

    def _layers_at_once(self, at: int, stop: int) -> int:
        """Layers of one kind from ``at`` on: as many as a program may have, then the largest power of two left."""
        same = next((end for end in range(at, stop) if self._kinds[end] != self._kinds[at]), stop) - at
        return self.layers_per_call if same >= self.layers_per_call else 1 << (same.bit_length() - 1)

    def _count(self, *program: Hashable) -> None:
        self.compiled.add(program)


def _compiled(program: Any, *arguments: Any) -> Any:
    """Compile a program for arguments like these; returns what its results look like."""
    lowered = program.lower(*jax.tree.map(_likeness, arguments))
    lowered.compile()
    return lowered.out_info


def _likeness(argument: Any, shape: tuple[int, ...] | None = None) -> Any:
    """What stands for an array, of its shape or another."""
    if not hasattr(argument, "dtype"):
        return argument
    return jax.ShapeDtypeStruct(shape or argument.shape, argument.dtype)  # type: ignore[no-untyped-call]


@partial(jax.jit, donate_argnums=0)
def _blank(pool: Array, page: int) -> Array:
    return pool.at[..., page, :, :].set(0)


def _ends_of(shard: DecoderShard) -> DecoderShard:
    """The shard without its blocks: embedding, final norm and head."""

    def value(parameter: Any) -> Array | None:
        return None if parameter is None else parameter[...]

    return DecoderShard(
        shard.geometry,
        shard.layers,
        (),
        embedding=value(shard.embedding),
        final_norm=value(shard.final_norm),
        head=value(shard.head),
        dtype=shard.dtype,
    )


def _layers_program(graph: Any, structure: Any, paged: _Paged, devices: Devices) -> Any:
    def run(
        weights: tuple[_Leaves, ...], caches: tuple[PagedCache, ...], hidden: Array, batch: PagedBatch, at: Array
    ) -> tuple[Array, tuple[PagedCache, ...]]:
        pools = list(caches)
        for layer, leaves in enumerate(weights):
            block = nnx.merge(graph, jax.tree.unflatten(structure, leaves))
            pool, own = layer % len(pools), _by_table(batch, at + layer)
            attention = partial(attend_in_pages, batch=own, cache=pools[pool], **paged)
            hidden, pools[pool] = block(hidden, batch.cos, batch.sin, attention)
        return hidden, tuple(pools)

    return devices.compiled(run, given=(True, True, False, False, False), made=(False, True), donated=(1, 2))


def _by_table(batch: PagedBatch, layer: Array) -> PagedBatch:
    """The batch by the table of a layer."""
    at = layer if len(batch.write_rows) > 1 else 0
    return batch._replace(write_rows=batch.write_rows[at], read_pages=batch.read_pages[at])


def _mixed_program(graph: Any, structure: Any, paged: _Paged, devices: Devices) -> Any:
    def run(
        weights: tuple[_Leaves, ...],
        caches: tuple[PagedCache, ...],
        decodes: Array,
        piece: Array,
        steps: PagedBatch,
        prompt: PagedBatch,
        at: Array,
    ) -> tuple[Array, Array, tuple[PagedCache, ...]]:
        # Side by side as tokens of one row: everything but attention looks at a token alone.
        rows = len(decodes)
        hidden = _beside(decodes, piece)
        cos, sin = _beside(steps.cos, prompt.cos), _beside(steps.sin, prompt.sin)
        pools = list(caches)
        for layer, leaves in enumerate(weights):
            block = nnx.merge(graph, jax.tree.unflatten(structure, leaves))
            pool, own = layer % len(pools), (_by_table(steps, at + layer), _by_table(prompt, at + layer))

            def attention(
                q: Array,
                k: Array,
                v: Array | None,
                view: AttentionView,
                cache: PagedCache = pools[pool],
                own: tuple[PagedBatch, PagedBatch] = own,
            ) -> tuple[Array, PagedCache]:
                # All is written before anything is read: in between, the whole pool would be copied.
                write_rows = jnp.concatenate([batch.write_rows for batch in own], axis=1)
                cache = write_pages(k, v, write_rows, cache)
                mixed = (
                    attend_to_pages(queries, view, batch, cache, **paged)
                    for queries, batch in zip(_apart(q, rows), own, strict=True)
                )
                return _beside(*mixed), cache

            hidden, pools[pool] = block(hidden, cos, sin, attention)
        return *_apart(hidden, rows), tuple(pools)

    return devices.compiled(run, given=(True, True, *[False] * 5), made=(False, False, True), donated=(1, 2, 3))


def _beside(decodes: Array, piece: Array) -> Array:
    """[B, 1, …] and [1, T, …] → [1, B + T, …]."""
    return jnp.concatenate([decodes.swapaxes(0, 1), piece], axis=1)


def _apart(both: Array, rows: int) -> tuple[Array, Array]:
    """[1, rows + T, …] → [rows, 1, …] and [1, T, …]."""
    return both[:, :rows].swapaxes(0, 1), both[:, rows:]


def _prepare_program(
    shard: DecoderShard, num_pages: int, page_tokens: int, max_context: int | None, devices: Devices
) -> Any:
    frequencies, factors = rope_frequencies(shard.geometry, max_context), attention_factors(shard.geometry)
    kv_heads = shard.geometry.cached_heads

    @scope("prepare")
    def prepare(tables: Array, starts: Array, lengths: Array, tokens: int) -> PagedBatch:
        positions = starts[:, None] + jnp.arange(tokens, dtype=jnp.int32)[None, :]
        cos, sin = rope_tables(frequencies, positions, factors)
        rows_of = partial(page_rows, kv_heads=kv_heads, pages=num_pages, page_tokens=page_tokens)
        write_rows, read_pages = jax.vmap(rows_of, in_axes=(0, None, None))(tables, positions, lengths)
        # A batch of padding alone, as warm-ups have it, still looks at its first position.
        longest = jnp.maximum(jnp.max(starts + lengths), 1)
        earliest = jnp.min(jnp.where(lengths > 0, starts, longest))
        return PagedBatch(positions, cos, sin, write_rows, read_pages, longest, earliest)

    return jax.jit(prepare, static_argnums=3, out_shardings=devices.same_for_all)


def _end_programs(graph: Any, vocab_size: int, devices: Devices) -> tuple[Any, Any, Any]:
    def embed(weights: Any, tokens: Array) -> Array:
        hidden: Array = nnx.merge(graph, weights).embed(tokens)
        return hidden

    def logits(weights: Any, hidden: Array, lengths: Array) -> Array:
        last = jnp.maximum(lengths - 1, 0)[:, None, None]
        rows = jnp.take_along_axis(hidden, last, axis=1)[:, 0]
        result: Array = nnx.merge(graph, weights).logits(rows)
        return result[:, :vocab_size]  # shares of the vocabulary may end in rows that mean nothing

    @scope("pool")
    def pooled(weights: Any, hidden: Array, where: Array) -> Array:
        row, start, stop = where
        states = nnx.merge(graph, weights).normed(hidden[row]).astype(jnp.float32)
        columns = jnp.arange(len(states))
        total: Array = jnp.sum(states, axis=0, where=((columns >= start) & (columns < stop))[:, None])
        return total

    return (
        devices.compiled(embed, given=(True, False), made=(False,)),
        devices.compiled(logits, given=(True, False, False), made=(False,)),
        devices.compiled(pooled, given=(True, False, False), made=(False,)),
    )
