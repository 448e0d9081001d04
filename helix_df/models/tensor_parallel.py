"""One shard over several devices of a host: which share of each part a device holds, and how shares become whole.

Attention heads, the inner width of MLPs and experts, and rows of the vocabulary are divided (arXiv 1909.08053); each
device computes with a share as a smaller model would, and two sums a layer make the hidden state whole. Where there are
fewer key and value heads than devices, several hold the same; where an inner width or the vocabulary can't be divided
evenly, shares end in zeros. What is left is small, and every device holds it.

Owns the table of shares and readers of them. Doesn't know files, batches, caches or programs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import jax
import numpy as np
from jax.sharding import Mesh

from helix_df.errors import ModelError
from helix_df.layers import LayerRange
from helix_df.models.decoder import DecoderShard
from helix_df.models.linear import PANEL
from helix_df.models.reader import WeightReader, require_shape
from helix_df.models.shares import AXIS
from helix_df.profiles.geometry import ModelGeometry, layer_parts
from helix_df.profiles.tensor_names import EMBEDDING, FINAL_NORM, HEAD, layer_names, model_tensors

Divided = Literal["query", "key_value", "inner", "vocabulary"]
"""What an axis of a tensor goes by: query heads, key and value heads, an inner width, rows of the vocabulary."""

_Rule = tuple[int, Divided] | None
_Axes = tuple[_Rule, ...]
"""Of each tensor of a part, which of its axes is divided, and by what; ``None`` for one that every device holds."""

_QUERY: _Rule = (0, "query")
_KEY_VALUE: _Rule = (0, "key_value")
_ROWS: _Rule = (0, "inner")
_COLUMNS: _Rule = (1, "inner")

SHARES: dict[str, _Axes] = {
    "qkv": (_QUERY, _KEY_VALUE, _KEY_VALUE),
    "qkv_bias": (_QUERY, _KEY_VALUE, _KEY_VALUE),
    "output": ((1, "query"),),
    "gate_up": (_ROWS, _ROWS),
    "down": (_COLUMNS,),
    "router": (None,),
    "expert_gate_up": (_ROWS, _ROWS),
    "expert_down": (_COLUMNS,),
    "output_bias": (None,),
    "query_norm": (_QUERY,),
    "key_norm": (_KEY_VALUE,),
    "attention_norm": (None,),
    "mlp_norm": (None,),
    "attention_post_norm": (None,),
    "mlp_post_norm": (None,),
}
"""By the parts of a layer (``layer_parts``); experts are tensors of their own, [out, in] each."""


def share_of(geometry: ModelGeometry, count: int) -> ModelGeometry:
    """The model as one of ``count`` devices computes it.

    Raises:
        ModelError: when the model can't be divided so.
    """
    if count == 1:
        return geometry
    unknown = sorted(set(layer_parts(geometry)) - set(SHARES))
    if unknown:
        raise ModelError(
            "layers of this family can't be divided among devices yet",
            where=geometry.family,
            found=", ".join(unknown),
            hint="declare a node for each device",
        )
    kv_heads = geometry.num_kv_heads
    if kv_heads % count and count % kv_heads:
        raise _indivisible("key and value heads", kv_heads, count)
    if geometry.num_heads % count:
        raise _indivisible("attention heads", geometry.num_heads, count)
    experts = geometry.experts
    return replace(
        geometry,
        num_heads=geometry.num_heads // count,
        num_kv_heads=max(1, kv_heads // count),
        intermediate_size=-(-geometry.intermediate_size // count),
        experts=replace(experts, inner=-(-experts.inner // count)),
        vocab_size=vocabulary_rows(geometry, count),
        shares=count,
    )


def _indivisible(what: str, number: int, count: int) -> ModelError:
    return ModelError(
        f"the model's {what} can't be divided evenly among the node's devices",
        found=f"{number} among {count}",
        expected="a number of devices that divides them",
    )


def vocabulary_rows(geometry: ModelGeometry, count: int) -> int:
    """Rows of the vocabulary a device, in whole panels: the last device's end in rows that mean nothing."""
    return -(-geometry.vocab_size // (count * PANEL)) * PANEL


@dataclass(frozen=True, slots=True)
class _Section:
    """Rows of a tensor that are divided alike: how many, and along which axis of theirs by what."""

    rows: int
    divided: _Rule


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

    def _share(self, rows: np.ndarray, divided: _Rule) -> np.ndarray:
        if divided is None:
            return rows
        axis, by = divided
        start, width = self._own(by, rows.shape[axis])
        share = rows[start : start + width] if axis == 0 else rows[:, start : start + width]
        lacking = [(0, width - share.shape[axis] if at == axis else 0) for at in range(rows.ndim)]
        return np.pad(share, lacking)

    def _sections_of(self, name: str) -> tuple[_Section, ...]:
        if name in (EMBEDDING, HEAD):
            return (_Section(self._geometry.vocab_size, (0, "vocabulary")),)
        if name == FINAL_NORM:
            return (_Section(self._geometry.hidden_size, None),)
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


def _sections(geometry: ModelGeometry) -> dict[str, tuple[_Section, ...]]:
    """By name within a layer. Several tensors of a part may be stored as one, its rows one after the other."""
    found: dict[str, tuple[_Section, ...]] = {}
    names = layer_names(geometry)
    for part, shapes in layer_parts(geometry).items():
        rules = _rules(part, geometry)
        stacked = "{}" in names[part][0]
        sections = [
            _Section(shape[1] if stacked else shape[0], rule) for shape, rule in zip(shapes, rules, strict=True)
        ]
        if len(names[part]) == len(sections):
            found |= {name: (section,) for name, section in zip(names[part], sections, strict=True)}
        else:
            found[names[part][0]] = tuple(sections)
    return found


def _rules(part: str, geometry: ModelGeometry) -> _Axes:
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
