"""What was measured of a device, from samples to the curves and the YAML of the job language.

Owns the arithmetic: medians, milliseconds a layer, and how far a declared number lies from a measured one. Doesn't
know engines, clocks or devices: samples come in as numbers.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from helix_df.profiles.catalogue import Measured
from helix_df.spec.units import format_size

Kind = Literal["prefill", "decode"]

TOLERANCE = 1.5
"""By which factor a declared number may differ from a measured one before anybody is told."""

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


@dataclass(frozen=True, slots=True)
class Difference:
    """A measured number that is not what was declared or planned with. ``what`` says of whom and of what."""

    what: str
    declared: float
    measured: float
    unit: str

    @property
    def factor(self) -> float:
        """How many times the larger number is the smaller one."""
        return max(self.declared, self.measured) / min(self.declared, self.measured)

    @property
    def worse(self) -> bool:
        """Whether what was measured keeps less than was promised: more time, or less a second."""
        return self.measured < self.declared if self.unit.endswith("/s") else self.measured > self.declared

    def __str__(self) -> str:
        return (
            f"{self.what}: measured {_rounded(self.measured, 3):g} {self.unit}, "
            f"expected {_rounded(self.declared, 3):g} {self.unit} "
            f"({self.factor:.1f} times apart)"
        )


def beyond(differences: Iterable[Difference], tolerance: float = TOLERANCE) -> tuple[Difference, ...]:
    """Those that are more than ``tolerance`` times apart."""
    return tuple(difference for difference in differences if difference.factor > tolerance)


def declared_curves(
    prefill_ms: Sequence[tuple[int, float]],
    decode_ms: Sequence[tuple[int, float]],
    kv_tokens: Sequence[int],
    max_batch: int,
) -> Measured:
    """The curves of a job as planning takes them, in seconds a layer.

    What is smaller than the first point takes as long as it: batches are padded up to a smallest one.
    """
    return Measured(
        prefill=_from_zero(prefill_ms),
        decode=_from_zero(decode_ms),
        kv_tokens=tuple(kv_tokens),
        max_batch=(max_batch,) * len(kv_tokens),
    )


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


def _from_zero(curve_ms: Sequence[tuple[int, float]]) -> tuple[tuple[float, float], ...]:
    points = tuple((float(size), ms / 1e3) for size, ms in curve_ms)
    return ((0.0, points[0][1]), *points)


def _rounded(value: float, digits: int = _DIGITS) -> float:
    return float(f"{value:.{digits}g}")
