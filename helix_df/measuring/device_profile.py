"""What was measured of a device, from samples to the curves and the YAML of the job language.

Owns the arithmetic: medians and milliseconds a layer. Doesn't know engines, clocks or devices: samples come in as
numbers.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from helix_df.spec.units import format_size

Kind = Literal["prefill", "decode"]

_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Sample:
    """Repeated runs of one batch through ``layers`` layers.

    ``size`` is prompt tokens for a prefill and requests for a decode step; ``seconds`` has one entry a run.
    """

    kind: Kind
    layers: int
    size: int
    seconds: tuple[float, ...]

    @property
    def median_s(self) -> float:
        """Seconds of the whole batch."""
        return statistics.median(self.seconds)

    @property
    def layer_ms(self) -> float:
        """Milliseconds a layer, what a call costs however few layers it has included."""
        return 1e3 * self.median_s / self.layers

    @property
    def spread(self) -> float:
        """Slowest run less the fastest, as a share of the median."""
        return (max(self.seconds) - min(self.seconds)) / self.median_s


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a device for weights and KV cache, and in words where the number is from."""

    total_bytes: float
    source: str


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """A model on a device as measured.

    Attributes:
        gpu: the type's name in the job.
        device: what the device calls itself.
        model: source and dtype, in words.
        context: tokens before a decode step's own.
        samples: every batch that was timed.
        memory: of the device, or what the job grants there.
        weights_bytes: of one layer.
        kv_tokens: that fit beside 1, 2, 3, … layers; empty where not even one layer fits.
    """

    gpu: str
    device: str
    model: str
    context: int
    samples: tuple[Sample, ...]
    memory: Memory
    weights_bytes: int
    kv_tokens: tuple[int, ...]

    def curve_ms(self, kind: Kind) -> tuple[tuple[int, float], ...]:
        """(size, milliseconds a layer) in the largest number of layers measured, rounded as it is written down."""
        layers = max(sample.layers for sample in self.samples)
        chosen = sorted(
            (s for s in self.samples if s.kind == kind and s.layers == layers), key=lambda sample: sample.size
        )
        return tuple((sample.size, _rounded(sample.layer_ms)) for sample in chosen)


def profile_yaml(profile: DeviceProfile) -> str:
    """The ``gpus:`` section of a job that says what was measured."""
    layers = max(sample.layers for sample in profile.samples)
    return (
        f"# {profile.model} on {profile.device}: medians in {layers} layers,"
        f" decode after {profile.context} tokens of context.\n"
        f"# Memory: {profile.memory.source}.\n"
        "gpus:\n"
        f"  {profile.gpu}:\n"
        f"    memory: {format_size(profile.memory.total_bytes)}\n"
        "    profile:\n"
        f"      prefill_ms: {_points(profile.curve_ms('prefill'))} # [prompt tokens, ms per layer]\n"
        f"      decode_ms: {_points(profile.curve_ms('decode'))} # [requests, ms per layer]\n"
    )


def _points(curve: Iterable[tuple[int, float]]) -> str:
    return "[" + ", ".join(f"[{size}, {ms}]" for size, ms in curve) + "]"


def _rounded(value: float, digits: int = _DIGITS) -> float:
    return float(f"{value:.{digits}g}")
