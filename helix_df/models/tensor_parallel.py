"""One shard over several devices of a host: which share of each part a device holds, and how shares become whole.

Attention heads, the inner width of MLPs and experts, and rows of the vocabulary are divided (arXiv 1909.08053); each
device computes with a share as a smaller model would, and two sums a layer make the hidden state whole. Where there are
fewer key and value heads than devices, several hold the same; where an inner width or the vocabulary can't be divided
evenly, shares end in zeros. What is left is small, and every device holds it.

Owns readers of shares. What is divided by what is ``device_shares``'s table. Doesn't know files, batches, caches or
programs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh

from helix_df.layers import LayerRange
from helix_df.models.decoder import DecoderShard
from helix_df.models.quantized import Quantized, below
from helix_df.models.reader import WeightReader, require_shape
from helix_df.models.shares import AXIS
from helix_df.profiles.device_shares import SHARES, Axes, Divided, Rule, share_of, vocabulary_rows
from helix_df.profiles.geometry import ModelGeometry, layer_parts
from helix_df.profiles.tensor_names import EMBEDDING, FINAL_NORM, HEAD, layer_names, model_tensors


@dataclass(frozen=True, slots=True)
class _DividedRows:
    """Rows of a tensor that are divided alike: how many, and along which axis of theirs by what."""

    rows: int
    divided: Rule


class ShareReader:
    """What one of several devices holds of each tensor.

    Args:
        reader: of the whole tensors.
        geometry: of the whole model.
        device: which device, from 0.
        count: of how many.
    """

    def __init__(self, reader: WeightReader, geometry: ModelGeometry, device: int, count: int) -> None:
        self._reader = reader
        self._geometry = geometry
        self._device = device
        self._count = count
        self._shapes = model_tensors(geometry)
        self._sections = _sections(geometry)

    def tensor(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """See ``WeightReader``; ``shape`` is that of the share."""
        whole = self._reader.tensor(name, self._shapes[name])
        sections = self._sections_of(name)
        starts = np.cumsum([0, *(section.rows for section in sections)])
        shares = [
            self._share(whole[at : at + one.rows], one.divided) for at, one in zip(starts, sections, strict=False)
        ]
        return require_shape(np.concatenate(shares), shape, name, "a device's share")

    def quantized(self, name: str, shape: tuple[int, int]) -> Quantized | None:
        """See ``WeightReader``. Numbers, too, are matrices whose blocks would have to be cut."""
        whole = self._reader.quantized(name, (self._shapes[name][0], self._shapes[name][1]))
        if whole is None:
            return None
        shares, start = [], 0
        for section in self._sections_of(name):
            own = self._packed_share(whole.rows(np.arange(start, start + section.rows)), section.divided)
            if own is None:
                return None
            shares.append(own)
            start += section.rows
        share = below(shares)
        require_shape(share.levels, shape, name, "a device's share")
        return share

    def _packed_share(self, rows: Quantized, divided: Rule) -> Quantized | None:
        if divided is None:
            return rows
        axis, by = divided
        length = rows.levels.shape[axis]
        start, width = self._own(by, length)
        stop = min(start + width, length)
        lacking = width - max(0, stop - start)
        if axis == 0:
            return rows.rows(np.arange(start, stop)).followed_by(lacking, 0)
        if width % rows.kind.inputs:
            return None
        return rows.columns(min(start, length), stop).followed_by(0, lacking)

    def _share(self, rows: np.ndarray, divided: Rule) -> np.ndarray:
        if divided is None:
            return rows
        axis, by = divided
        if by == "first":
            return rows if self._device == 0 else np.zeros_like(rows)
        start, width = self._own(by, rows.shape[axis])
        share = rows[start : start + width] if axis == 0 else rows[:, start : start + width]
        lacking = [(0, width - share.shape[axis] if at == axis else 0) for at in range(rows.ndim)]
        return np.pad(share, lacking)

    def _sections_of(self, name: str) -> tuple[_DividedRows, ...]:
        if name in (EMBEDDING, HEAD):
            return (_DividedRows(self._geometry.vocab_size, (0, "vocabulary")),)
        if name == FINAL_NORM:
            return (_DividedRows(self._geometry.hidden_size, None),)
        return self._sections[_EXPERT_NUMBER.sub(".{}.", name.split(".", 3)[3])]

    def _own(self, by: Divided, length: int) -> tuple[int, int]:
        """Where on an axis so long this device's share begins, and how wide it is; the last ones' may reach beyond."""
        device, count, kv_heads = self._device, self._count, self._geometry.num_kv_heads
        if by == "key_value" and kv_heads < count:
            width = length // kv_heads
            return device * kv_heads // count * width, width
        width = vocabulary_rows(self._geometry, count) if by == "vocabulary" else -(-length // count)
        return device * width, width


_EXPERT_NUMBER = re.compile(r"(?<=experts)\.\d+\.")


def _sections(geometry: ModelGeometry) -> dict[str, tuple[_DividedRows, ...]]:
    """By name within a layer. Several tensors of a part may be stored as one, its rows one after the other."""
    found: dict[str, tuple[_DividedRows, ...]] = {}
    names = layer_names(geometry)
    parts = {part: shapes for layer in geometry.layer_kinds for part, shapes in layer_parts(geometry, layer).items()}
    for part, shapes in parts.items():
        rules = _rules(part, geometry)
        stacked = "{}" in names[part][0]
        sections = [
            _DividedRows(shape[1] if stacked else shape[0], rule) for shape, rule in zip(shapes, rules, strict=True)
        ]
        if len(names[part]) == len(sections):
            found |= {name: (section,) for name, section in zip(names[part], sections, strict=True)}
        else:
            found[names[part][0]] = tuple(sections)
    return found


def _rules(part: str, geometry: ModelGeometry) -> Axes:
    if part in ("query_norm", "key_norm") and geometry.attention.query_key_norm == "head":
        return (None,)
    return SHARES[part]


@dataclass(frozen=True, slots=True)
class SharedShard:
    """A shard over several devices: ``shares`` are what each computes with, ``mesh`` is over the devices.

    ``geometry`` is of the whole model.
    """

    geometry: ModelGeometry
    layers: LayerRange
    shares: tuple[DecoderShard, ...]
    mesh: Mesh


def build_shares(
    build: Callable[[WeightReader, ModelGeometry], DecoderShard],
    reader: WeightReader,
    geometry: ModelGeometry,
    layers: LayerRange,
    devices: Sequence[jax.Device],
) -> SharedShard:
    """A shard over ``devices``. ``build`` builds one from a reader and the geometry of what it holds.

    Raises:
        ModelError: as ``share_of`` and ``build``.
    """
    count = len(devices)
    share = share_of(geometry, count)
    shards = []
    for number, device in enumerate(devices):
        with jax.default_device(device):
            shards.append(build(ShareReader(reader, geometry, number, count), share))
    return SharedShard(geometry, layers, tuple(shards), Mesh(np.array(devices), (AXIS,)))
