"""Which tensor of a checkpoint goes where in the shared decoder, in which number format and layout.

Reads only what a range of layers holds. Doesn't know where tensors come from, or how they are computed with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from helix_df.layers import LayerRange
from helix_df.models.decoder import DecoderBlock, DecoderShard, part_name
from helix_df.models.linear import Layout, has_panels, in_panels, lay_out
from helix_df.models.quantized import Quantized, in_runs, pack
from helix_df.models.reader import PieceReader, WeightReader
from helix_df.profiles.families.registry import family_of
from helix_df.profiles.geometry import ModelGeometry, Shape, layer_parts
from helix_df.profiles.tensor_names import EMBEDDING, FINAL_NORM, HEAD, layer_names, model_tensors
from helix_df.profiles.weight_bytes import MULTIPLIED, STACKED


def build_decoder(
    reader: WeightReader,
    geometry: ModelGeometry,
    layers: LayerRange,
    dtype: DTypeLike,
    layout: Layout,
    matrix_dtype: DTypeLike | None = None,
) -> DecoderShard:
    """The shard of ``layers``, reading only the tensors that it holds, with its matrices in ``layout``.

    ``matrix_dtype`` is that of matrices (``profiles.weight_bytes.MULTIPLIED``) which aren't packed; by default
    ``dtype``, in which it computes.

    Raises:
        ModelError: when a tensor is missing or of another shape.
        ValueError: when ``layers`` reaches beyond the model.
    """
    if layers.stop > geometry.num_layers:
        raise ValueError(f"layers {layers} of a model with {geometry.num_layers}")
    shapes = model_tensors(geometry, layers)
    offset = family_of(geometry.family, "geometry").norm_offset
    numbers = _Numbers(dtype, dtype if matrix_dtype is None else matrix_dtype)

    def read(name: str) -> np.ndarray:
        return reader.tensor(name, shapes[name])

    def matrix(name: str, layout: Layout) -> Array | None:
        return _matrix(reader, {name: shapes[name]}, numbers, layout) if name in shapes else None

    as_head = layers.stop == geometry.num_layers and geometry.tie_embeddings
    return DecoderShard(
        geometry,
        layers,
        tuple(
            _build_block(reader, shapes, geometry, layer, numbers, layout) for layer in range(layers.start, layers.stop)
        ),
        # Looking rows up wants rows; only where it is the head, too, is it a factor of products.
        embedding=matrix(EMBEDDING, layout if as_head else "rows"),
        final_norm=_norm(read(FINAL_NORM), offset, dtype) if FINAL_NORM in shapes else None,
        head=matrix(HEAD, layout),
        dtype=dtype,
    )


def _build_block(
    reader: WeightReader,
    shapes: Mapping[str, Shape],
    geometry: ModelGeometry,
    layer: int,
    numbers: _Numbers,
    layout: Layout,
) -> DecoderBlock:
    offset, dtype = family_of(geometry.family, "geometry").norm_offset, numbers.others
    parts: dict[str, Array] = {}
    for part in layer_parts(geometry, layer):
        names = [f"model.layers.{layer}.{name}" for name in layer_names(geometry)[part]]
        if "{}" in names[0]:
            each = [[name.format(expert) for name in names] for expert in range(geometry.experts.count)]
            tensors_of = [{name: shapes[name] for name in of_one} for of_one in each]
            kept = numbers if part in STACKED else numbers._replace(matrices=dtype)
            stacked = _stacked(reader, tensors_of, kept, layout)
            parts |= {part_name(part, place): array for place, array in enumerate(stacked)}
            continue
        order = _row_order(part, geometry)
        packed = _packed(reader, {name: shapes[name] for name in names}, order) if part in MULTIPLIED else None
        if packed is not None:
            parts |= {part_name(part, place): jnp.asarray(array) for place, array in enumerate(packed)}
            continue
        if part in MULTIPLIED and isinstance(order, slice):
            parts[part] = _laid_out(reader, {name: shapes[name] for name in names}, numbers, layout)
            continue
        tensors = [reader.tensor(name, shapes[name])[order] for name in names]
        if part in MULTIPLIED:
            parts[part] = jnp.asarray(lay_out(_joined(tensors), layout), numbers.matrices)
        elif part.endswith("_norm"):
            parts[part] = _norm(tensors[0], offset, dtype)
        else:
            parts[part] = jnp.asarray(_joined(tensors), dtype)
    return DecoderBlock(geometry, layer, parts)


def _row_order(part: str, geometry: ModelGeometry) -> np.ndarray | slice:
    """Rows of queries and keys of latents, each head's rotated ones with the halves one after the other."""
    latent = geometry.latent
    if not latent.interleaved or part not in ("query", "query_up", "latent_down"):
        return slice(None)
    heads = 1 if part == "latent_down" else geometry.num_heads
    (shape,) = layer_parts(geometry, 0)[part]
    by_head = np.arange(shape[0]).reshape(heads, -1)
    still, turning = np.split(by_head, [by_head.shape[1] - latent.rotated], axis=1)
    return np.concatenate([still, turning[:, 0::2], turning[:, 1::2]], axis=1).reshape(-1)


class _Numbers(NamedTuple):
    """Formats of what isn't packed: of all but matrices, and of matrices."""

    others: DTypeLike
    matrices: DTypeLike


def _matrix(reader: WeightReader, tensors: Mapping[str, Shape], numbers: _Numbers, layout: Layout) -> Array:
    """Matrices one below the other: packed, if the reader keeps them so and they fit, else in ``layout``."""
    packed = _packed(reader, tensors)
    if packed is not None:
        (array,) = packed
        return jnp.asarray(array)
    return _laid_out(reader, tensors, numbers, layout)


def _laid_out(reader: WeightReader, tensors: Mapping[str, Shape], numbers: _Numbers, layout: Layout) -> Array:
    """Matrices one below the other in ``layout``; where that is another than the file's, a few rows at a time."""
    shapes = list(tensors.values())
    outputs = [shape[0] for shape in shapes]
    if len({len(shape) for shape in shapes} - {2}) or not all(has_panels(rows, layout) for rows in outputs):
        return jnp.asarray(lay_out(_numbers(reader, tensors), layout), numbers.matrices)
    stretches = (
        stretch for name, (rows, inputs) in tensors.items() for stretch in _stretches(reader, name, (rows, inputs))
    )
    return jnp.asarray(in_panels(stretches, sum(outputs), shapes[0][1]), numbers.matrices)


def _stretches(reader: WeightReader, name: str, shape: tuple[int, int]) -> Iterator[np.ndarray]:
    if isinstance(reader, PieceReader):
        yield from reader.pieces(name, shape)
    else:
        yield reader.tensor(name, shape)


def _stacked(
    reader: WeightReader, experts: Sequence[Mapping[str, Shape]], numbers: _Numbers, layout: Layout
) -> list[Array]:
    """The matrices of all experts, each of which lies in one file's tensor with the others': all packed, or none."""
    packed: list[list[np.ndarray]] = []
    for tensors in experts:
        blocks = _packed(reader, tensors)
        if blocks is None or [one.shape for one in blocks] != [one.shape for one in (packed or [blocks])[0]]:
            # Panels of experts are read by machine code alone: XLA's own product is as fast on rows.
            form = layout if numbers.matrices != numbers.others else "rows"
            each = [_numbers(reader, one) for one in experts]
            laid_out = each if each[0].ndim == 1 else [lay_out(one, form) for one in each]
            return [jnp.asarray(np.stack(laid_out), numbers.matrices)]
        packed.append(blocks)
    return [jnp.asarray(np.stack(of_run)) for of_run in zip(*packed, strict=True)]


def _packed(
    reader: WeightReader, tensors: Mapping[str, Shape], order: np.ndarray | slice = slice(None)
) -> list[np.ndarray] | None:
    """Matrices one below the other in blocks, an array a run of a kind, if the reader keeps them so and they fit.

    ``order`` is that of each one's rows.
    """
    if any(len(shape) != 2 for shape in tensors.values()):
        return None

    def of(name: str, shape: Shape) -> Quantized | None:
        matrix = reader.quantized(name, (shape[0], shape[1]))
        return matrix if matrix is None or isinstance(order, slice) else matrix.rows(order)

    found = in_runs([of(name, shape) for name, shape in tensors.items()])
    return None if found is None else [pack(run) for run in found]


def _numbers(reader: WeightReader, tensors: Mapping[str, Shape]) -> np.ndarray:
    return _joined([reader.tensor(name, shape) for name, shape in tensors.items()])


def _joined(tensors: Sequence[np.ndarray]) -> np.ndarray:
    """Tensors one below the other; one alone as it is, since memory is dearer to begin than to read."""
    return tensors[0] if len(tensors) == 1 else np.concatenate(tensors)


def _norm(weight: np.ndarray, offset: float, dtype: DTypeLike) -> Array:
    """A norm's weight; one that is stored less an offset keeps float32, in which its family adds and multiplies."""
    if not offset:
        return jnp.asarray(weight, dtype)
    return jnp.asarray(weight.astype(np.float32) + np.float32(offset), jnp.float32)
