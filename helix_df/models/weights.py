"""From a model source to a shard with its weights in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from helix_df.layers import LayerRange
from helix_df.models.decoder import DecoderShard
from helix_df.models.decoder_weights import build_decoder
from helix_df.models.fetched_layers import fetch_layers
from helix_df.models.gguf_weights import GgufReader
from helix_df.models.linear import Layout
from helix_df.models.random_weights import RandomReader
from helix_df.models.reader import WeightReader
from helix_df.models.registry import family_builder
from helix_df.models.rounding_reader import RoundingReader
from helix_df.models.safetensors_weights import SafetensorsReader
from helix_df.models.tensor_parallel import SharedShard, build_shares
from helix_df.profiles.device_shares import share_of
from helix_df.profiles.families.registry import family_of
from helix_df.profiles.geometry import ModelGeometry
from helix_df.profiles.read_geometry import check_weights, locate_gguf, model_directory
from helix_df.profiles.tensor_names import EMBEDDING, HEAD
from helix_df.profiles.weight_bytes import NUMBERS, ROUNDED, KeptWeights, weight_bytes
from helix_df.spec.source import ModelSource


def open_weights(
    source: ModelSource,
    geometry: ModelGeometry,
    *,
    seed: int = 0,
    base: Path | None = None,
    kept: KeptWeights | None = None,
) -> WeightReader:
    """The reader for ``source``. ``seed`` matters for ``random:`` alone; ``kept`` as for ``load_shard``.

    Raises:
        ModelError: when there are no weights there.
    """
    if kept in ROUNDED:
        return RoundingReader(open_weights(source, geometry, seed=seed, base=base), ROUNDED[kept])
    if source.kind == "random":
        return RandomReader(seed)
    if source.kind == "hf":
        family = family_of(geometry.family, str(source))
        return SafetensorsReader(model_directory(source, base), family, packed=kept == "stored")
    return GgufReader(locate_gguf(source, base), geometry, packed=kept == "stored")


def load_shard(
    source: ModelSource,
    geometry: ModelGeometry,
    layers: LayerRange | None = None,
    *,
    dtype: DTypeLike = jnp.float32,
    seed: int = 0,
    base: Path | None = None,
    layout: Layout = "rows",
    kept: KeptWeights | None = None,
) -> DecoderShard:
    """Read the weights of ``layers`` (default: all), and nothing else, onto the default device.

    Args:
        source: where the model comes from.
        geometry: what ``read_geometry`` says of it.
        layers: the layers to hold.
        dtype: of weights and activations; float32 on a CPU (bfloat16 is slow there), bfloat16 on a GPU.
        seed: of ``random:`` weights.
        base: where relative paths start.
        layout: of the matrices in memory, see ``models.linear``.
        kept: how matrices stay in memory: as the file has them, rounded to few bits, as numbers of another format, or
            by default as ``dtype``.

    Raises:
        ModelError: when a tensor is missing, unreadable or of another shape than ``geometry`` says, when nobody
            would read it, or when it can't be kept so.
    """
    layers = layers or LayerRange(0, geometry.num_layers)
    weight_bytes(source, geometry, jnp.dtype(dtype).itemsize, kept, base)
    reader = _checked(source, geometry, layers, seed, base, kept)
    return _builder(geometry, layers, dtype, layout, kept)(reader, geometry)


def load_shares(
    source: ModelSource,
    geometry: ModelGeometry,
    layers: LayerRange,
    devices: Sequence[jax.Device],
    *,
    dtype: DTypeLike = jnp.float32,
    seed: int = 0,
    base: Path | None = None,
    layout: Layout = "rows",
    kept: KeptWeights | None = None,
) -> SharedShard:
    """As ``load_shard``, with a share of the weights on each of several devices of this process.

    Raises:
        ModelError: as ``load_shard``, and when the model can't be divided among so many.
    """
    weight_bytes(source, share_of(geometry, len(devices)), jnp.dtype(dtype).itemsize, kept, base)
    reader = _checked(source, geometry, layers, seed, base, kept)
    return build_shares(_builder(geometry, layers, dtype, layout, kept), reader, geometry, layers, devices)


def _builder(
    geometry: ModelGeometry, layers: LayerRange, dtype: DTypeLike, layout: Layout, kept: KeptWeights | None
) -> Callable[[WeightReader, ModelGeometry], DecoderShard]:
    """What builds a shard of ``layers`` from a reader and the geometry of what it holds."""
    numbers = None if kept is None else NUMBERS.get(kept)
    if numbers is None or numbers == jnp.dtype(dtype).name:
        build = family_builder(geometry.family)
        return lambda reader, held: build(reader, held, layers, dtype, layout)
    # Elsewhere on a CPU they would be written down as wide numbers, product by product.
    panels: Layout = "panels" if jax.default_backend() == "cpu" else layout
    return lambda reader, held: build_decoder(reader, held, layers, dtype, panels, numbers)


def _checked(
    source: ModelSource,
    geometry: ModelGeometry,
    layers: LayerRange,
    seed: int,
    base: Path | None,
    kept: KeptWeights | None = None,
) -> WeightReader:
    """The reader of weights that are what ``geometry`` says."""
    fetch_layers(source, geometry, layers, base=base)
    reader = open_weights(source, geometry, seed=seed, base=base, kept=kept)
    if layers.stop <= geometry.num_layers:
        check_weights(source, geometry, base, layers)
    stored = reader.reader if isinstance(reader, RoundingReader) else reader
    if isinstance(stored, SafetensorsReader) and geometry.tie_embeddings and layers.stop == geometry.num_layers:
        stored.require_equal(EMBEDDING, HEAD, (geometry.vocab_size, geometry.hidden_size))
    return reader
