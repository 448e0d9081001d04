"""Seconds of a node's batches: which of the sources of ``profiles.timing`` a job's GPU types have.

Owns that choice. The simulator counts with it, and emulated workers keep to it.
"""

from __future__ import annotations

from typing import Literal

from helix_df.graph.compile import DEFAULT_EFFICIENCY
from helix_df.profiles.catalogue import find_device, find_measured
from helix_df.profiles.geometry import ModelGeometry
from helix_df.profiles.measurement import declared_curves
from helix_df.profiles.throughput import Requests, Roofline
from helix_df.profiles.timing import LayerTiming, declared_timing, measured_timing, roofline_timing
from helix_df.spec.job import GpuType, Job

TimingChoice = Literal["planned", "measured"]


def node_timing(
    job: Job,
    geometry: ModelGeometry,
    requests: Requests,
    node: str,
    layers: int,
    kv_tokens: int,
    choice: TimingChoice = "planned",
) -> LayerTiming:
    """Seconds a layer takes on a node that holds ``layers`` layers, at the node's speed."""
    timing = stage_timing(job, geometry, requests, job.nodes[node].gpu, layers, kv_tokens, choice)
    return timing.stretched(1 / job.nodes[node].speed)


def is_measured(job: Job, geometry: ModelGeometry, gpu: str) -> bool:
    """Whether batches of a GPU type were timed: curves in the job, or the catalogue's where the job says nothing."""
    declared = job.gpus.get(gpu, GpuType())
    if declared.profile is not None:
        return declared.profile.prefill_ms is not None and declared.profile.decode_ms is not None
    return declared == GpuType() and find_measured(gpu, geometry, job.model.dtype) is not None


def stage_timing(
    job: Job,
    geometry: ModelGeometry,
    requests: Requests,
    gpu: str,
    layers: int,
    kv_tokens: int,
    choice: TimingChoice = "planned",
) -> LayerTiming:
    """Seconds a layer takes on a GPU type that holds ``layers`` layers; sources as in ``profiles.timing``."""
    declared = job.gpus.get(gpu, GpuType())
    profile = declared.profile
    if profile is not None and profile.prefill_ms is not None and profile.decode_ms is not None:
        curves = declared_curves(profile.prefill_ms, profile.decode_ms, (kv_tokens,), requests.max_batch)
        return measured_timing(curves, layers)
    measured = find_measured(gpu, geometry, job.model.dtype)
    shape = measured_timing(measured, layers) if measured is not None else None
    if shape is not None and (choice == "measured" or declared == GpuType()):
        return shape
    if shape is None:
        roofline = _roofline(job, gpu)
        shape = roofline_timing(geometry, job.model.element_bytes, roofline, requests) if roofline else None
    table = declared.profile.tokens_per_s if declared.profile is not None else None
    if table is not None:
        return declared_timing(table[layers - 1], kv_tokens, layers, shape, requests)
    if shape is None or (measured is not None and declared.profile is not None):
        roofline = _roofline(job, gpu)
        assert roofline is not None, f"{gpu} was planned with without anybody knowing its speed"
        return roofline_timing(geometry, job.model.element_bytes, roofline, requests)
    return shape


def _roofline(job: Job, gpu: str) -> Roofline | None:
    """The declared roofline, else the catalogue's, else none."""
    profile = job.gpus.get(gpu, GpuType()).profile
    if profile is not None and profile.compute is not None and profile.bandwidth is not None:
        return Roofline(profile.efficiency * profile.compute, profile.efficiency * profile.bandwidth)
    device = find_device(gpu)
    if device is None:
        return None
    return Roofline(DEFAULT_EFFICIENCY * device.flop_per_s[job.model.dtype], DEFAULT_EFFICIENCY * device.bytes_per_s)
