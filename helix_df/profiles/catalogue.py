"""The devices this release knows: datasheet numbers and the Helix paper's measured curves, as rows of data.

Owns reading ``data/gpus.json`` and ``data/helix_measured.json``, and the meaning of ``NxGPU``. Doesn't know jobs, or
how a throughput follows from the numbers (``throughput``).
"""

from __future__ import annotations

import importlib.resources
import json
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from helix_df.profiles.geometry import ModelGeometry
from helix_df.spec.units import parse_bandwidth, parse_compute, parse_size

TENSOR_PARALLEL_SHARE = 0.9
"""Of N devices' compute and bandwidth, what N of them reach together under tensor parallelism (data/README.md)."""

_COUNTED = re.compile(r"([1-9][0-9]?)x(.+)")
_GEOMETRY_FIELDS = {
    "num_hidden_layers": "num_layers",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "vocab_size": "vocab_size",
}


@dataclass(frozen=True, slots=True)
class Device:
    """A device's memory in bytes, memory bandwidth in bytes/s and peak FLOP/s by dtype; ``printed_as``: the names that
    drivers and systems print for it, which several rows may share that differ in memory alone."""

    name: str
    memory_bytes: float
    bytes_per_s: float
    flop_per_s: dict[str, float]
    printed_as: tuple[str, ...] = ()

    def times(self, count: int) -> Device:
        """``count`` of these under tensor parallelism."""
        speed = count * TENSOR_PARALLEL_SHARE if count > 1 else 1.0
        return Device(
            f"{count}x{self.name}",
            self.memory_bytes * count,
            self.bytes_per_s * speed,
            {dtype: rate * speed for dtype, rate in self.flop_per_s.items()},
        )


Curve = tuple[tuple[float, float], ...]
"""Points (x, seconds), ascending in x; linear between them."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One model on one device as measured: seconds per layer, KV cache and batch limit by layers held.

    ``prefill`` is by prompt tokens, ``decode`` by sequences in the batch. ``kv_tokens[k - 1]`` and ``max_batch[k - 1]``
    are for ``k`` layers; ``max_prompts`` is the most prompts in one batch.
    """

    prefill: Curve
    decode: Curve
    kv_tokens: tuple[int, ...]
    max_batch: tuple[int, ...]
    max_prompts: int | None = None


@cache
def devices() -> dict[str, Device]:
    """The catalogue's single devices by name."""
    return {
        name: Device(
            name,
            parse_size(row["memory"]),
            parse_bandwidth(row["bandwidth"]),
            {dtype: parse_compute(row[dtype]) for dtype in ("float16", "bfloat16", "float32")},
            tuple(row.get("names", ())),
        )
        for name, row in _read("gpus.json").items()
    }


def find_device(name: str) -> Device | None:
    """The device called ``name`` (``L4``, or ``2xL4`` for two under tensor parallelism), or ``None``."""
    counted = _COUNTED.fullmatch(name)
    if counted is None:
        return devices().get(name)
    single = devices().get(counted[2])
    return single.times(int(counted[1])) if single is not None else None


def rows_printed_as(name: str) -> list[Device]:
    """The rows of the device that a driver calls ``name``, in whatever case."""
    wanted = name.strip().lower()
    return [device for device in devices().values() if wanted in (one.lower() for one in device.printed_as)]


@cache
def known_name(name: str) -> str:
    """The catalogue's name for ``name``, or for what a driver prints; ``name`` itself where that isn't one row."""
    counted = _COUNTED.fullmatch(name)
    count, single = (f"{counted[1]}x", counted[2]) if counted is not None else ("", name)
    rows = rows_printed_as(single)
    return f"{count}{rows[0].name}" if len(rows) == 1 else name


@cache
def labelled_as(name: str) -> str:
    """As ``known_name``, for what clusters call devices: in any case, and with other signs between the words."""
    wanted = _letters(name)
    rows = [row for row in devices().values() if wanted in map(_letters, (row.name, *row.printed_as))]
    return rows[0].name if len(rows) == 1 else name


def _letters(name: str) -> str:
    return "".join(char for char in name.lower() if char.isalnum())


def device_count(name: str) -> int:
    """How many devices ``name`` stands for: 2 for ``2xL4``, 1 for ``L4``, whether the catalogue knows them or not."""
    counted = _COUNTED.fullmatch(name)
    return 1 if counted is None else int(counted[1])


@cache
def find_measured(device: str, geometry: ModelGeometry, dtype: str) -> Measured | None:
    """Measured curves of a model of this geometry on this device in this dtype, or ``None``."""
    for model in _read("helix_measured.json").values():
        same = all(getattr(geometry, field) == model["geometry"][key] for key, field in _GEOMETRY_FIELDS.items())
        if same and model["dtype"] == dtype and device in model["gpus"]:
            return _measured(model["gpus"][device])
    return None


def _measured(row: dict[str, Any]) -> Measured:
    block_tokens = 16
    return Measured(
        prefill=tuple((tokens, ms / 1e3) for tokens, ms in row["prefill_ms"]),
        decode=tuple((batch, ms / 1e3) for batch, ms in row["decode_ms"]),
        kv_tokens=tuple(blocks * block_tokens for blocks in row["kv_blocks"]),
        max_batch=tuple(row["max_batch"]),
        max_prompts=row["max_prompts"],
    )


def _read(name: str) -> dict[str, Any]:
    text = importlib.resources.files("helix_df.profiles").joinpath(f"data/{name}").read_text("utf-8")
    rows: dict[str, Any] = json.loads(text)
    return rows
