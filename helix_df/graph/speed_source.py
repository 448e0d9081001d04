"""Where a GPU type's speed comes from: the one choice that planning, the simulator and emulated workers share.

Owns the order: a table in the job, curves in the job, measured curves of the very same device and model, a roofline.
Doesn't make a throughput (``compile``) or a timing (``stage_timing``) of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from helix_df.errors import SpecError
from helix_df.profiles.catalogue import Measured, find_device, find_measured
from helix_df.profiles.geometry import ModelGeometry
from helix_df.profiles.throughput import Requests, Roofline, reading_weights
from helix_df.spec.job import CurvePoint, GpuType, Job, MeasuredLoad, Profile

DEFAULT_EFFICIENCY = Profile.model_fields["efficiency"].default
"""Share of a catalogued device's peaks that is reached, where the job says nothing."""

TABLE_BATCH: int = MeasuredLoad.model_fields["batch"].default
"""Requests that decoded together when a table was measured, where the job doesn't say. It doesn't follow
``runtime.max_batch``: a larger limit makes no device slower."""


@dataclass(frozen=True, slots=True)
class DeclaredTable:
    """Tokens/s with 1, 2, 3, … layers, as the job says, and the load under which they were measured, if it says."""

    tokens_per_s: tuple[float, ...]
    load: MeasuredLoad | None = None

    def measured_at(self, planned: Requests) -> Requests:
        """The mean request and the batch that the table is for; without a word of it, ``planned``'s request at
        ``TABLE_BATCH``, whatever batches the job allows. Nobody drafted then."""
        load = self.load or MeasuredLoad()
        if load.input_length is None or load.output_length is None:
            return replace(planned.undrafted, max_batch=load.batch)
        return Requests(load.input_length, load.output_length, load.batch)


@dataclass(frozen=True, slots=True)
class DeclaredCurves:
    """Milliseconds a layer by prompt tokens and by requests, as the job says."""

    prefill_ms: tuple[CurvePoint, ...]
    decode_ms: tuple[CurvePoint, ...]


SpeedSource = DeclaredTable | DeclaredCurves | Measured | Roofline


def speed_source(job: Job, geometry: ModelGeometry, gpu: str) -> SpeedSource:
    """Where the speed of a GPU type comes from. Measured curves count only where the job says nothing of the type.

    Raises:
        SpecError: when nobody says how fast the type is.
    """
    declared = job.gpus.get(gpu, GpuType())
    profile = declared.profile
    if profile is not None and profile.tokens_per_s is not None:
        return DeclaredTable(profile.tokens_per_s, profile.measured_at)
    if profile is not None and profile.prefill_ms is not None and profile.decode_ms is not None:
        return DeclaredCurves(profile.prefill_ms, profile.decode_ms)
    measured = catalogue_curves(job, geometry, gpu)
    if measured is not None and declared.says_nothing:
        return measured
    roofline = find_roofline(job, gpu)
    if roofline is None:
        raise SpecError(
            "nobody knows how fast this GPU is", where=f"gpus.{gpu}", expected="a profile, or a name in the catalogue"
        )
    return roofline


def device_curves(job: Job, geometry: ModelGeometry, gpu: str) -> Measured | None:
    """The catalogue's measured curves of a GPU type, whatever speed the job declares for it.

    None where the job declares another memory: that is another device, or a part of this one.
    """
    memory, device = job.gpus.get(gpu, GpuType()).memory, find_device(gpu)
    if memory is not None and (device is None or memory != device.memory_bytes):
        return None
    return catalogue_curves(job, geometry, gpu)


def catalogue_curves(job: Job, geometry: ModelGeometry, gpu: str) -> Measured | None:
    """The catalogue's measured curves of a GPU type's name and the job's model, under which no pass is for nothing."""
    published = find_measured(gpu, geometry, job.model.computed_as)
    return reading_weights(published) if published is not None else None


def is_measured(job: Job, geometry: ModelGeometry, gpu: str) -> bool:
    """Whether batches of a GPU type were timed: curves in the job, or the catalogue's where the job says nothing."""
    return isinstance(speed_source(job, geometry, gpu), DeclaredCurves | Measured)


def find_roofline(job: Job, gpu: str) -> Roofline | None:
    """The declared roofline of a GPU type, else the catalogue's, else none."""
    profile = job.gpus.get(gpu, GpuType()).profile
    if profile is not None and profile.compute is not None and profile.bandwidth is not None:
        return Roofline(profile.efficiency * profile.compute, profile.efficiency * profile.bandwidth)
    device = find_device(gpu)
    if device is None:
        return None
    return Roofline(DEFAULT_EFFICIENCY * device.flop_per_s[job.model.dtype], DEFAULT_EFFICIENCY * device.bytes_per_s)
