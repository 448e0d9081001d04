"""Seconds of a node's batches, from the source that its speed comes from (``speed_source``).

Owns the step from that source to curves of a stage (``profiles.timing``). The simulator counts with it, and emulated
workers keep to it.
"""

from __future__ import annotations

from typing import Literal

from helix_df.graph.held_weights import held_weights
from helix_df.graph.speed_source import (
    DeclaredCurves,
    DeclaredTable,
    catalogue_curves,
    device_curves,
    find_roofline,
    speed_source,
)
from helix_df.profiles.catalogue import Measured, find_measured
from helix_df.profiles.geometry import ModelGeometry
from helix_df.profiles.kv_formats import kv_token_bytes
from helix_df.profiles.kv_windows import KvShape, shape_in_a_row
from helix_df.profiles.throughput import Requests, Roofline
from helix_df.profiles.timing import LayerTiming, declared_curves, declared_timing, measured_timing, roofline_timing
from helix_df.spec.job import Job

TimingChoice = Literal["measured", "planned", "published"]
TIMINGS: tuple[TimingChoice, ...] = ("measured", "planned", "published")


def node_timing(
    job: Job,
    geometry: ModelGeometry,
    requests: Requests,
    node: str,
    layers: int,
    kv_tokens: int,
    choice: TimingChoice = "measured",
    shape: KvShape | None = None,
) -> LayerTiming:
    """Seconds a layer takes on a node that holds ``layers`` layers, at the node's speed."""
    timing = stage_timing(job, geometry, requests, job.nodes[node].gpu, layers, kv_tokens, choice, shape)
    return timing.stretched(1 / job.nodes[node].speed)


def stage_timing(
    job: Job,
    geometry: ModelGeometry,
    requests: Requests,
    gpu: str,
    layers: int,
    kv_tokens: int,
    choice: TimingChoice = "measured",
    shape: KvShape | None = None,
) -> LayerTiming:
    """Seconds a layer takes on a GPU type that holds ``layers`` layers.

    ``measured``: the catalogue's measured curves of the very device wherever there are some, even where the job
    declares a table or a roofline; curves in the job come first. ``planned``: the closed form of the timing is what
    planning counts with. ``published``: the curves of the Helix paper as they stand, straight to zero below their
    first points, by which its simulator counts.

    ``shape`` says how many of the layers have a window; by default as few as lie in a row, so that no others are
    slower. By a roofline their attention takes less. What was measured stays as it is, and so does what a table says;
    its shape is that of the slowest layers.
    """
    source = speed_source(job, geometry, gpu)
    if isinstance(source, DeclaredCurves):
        declared = declared_curves(source.prefill_ms, source.decode_ms, (kv_tokens,), requests.max_batch)
        return measured_timing(declared, layers)
    known = _curves(job, geometry, gpu, choice)
    if known is not None:
        return measured_timing(known, layers)

    slowest = shape_in_a_row(geometry.attention.windows, layers)

    def by(roofline: Roofline, shape: KvShape) -> LayerTiming:
        weights, kv_bytes = held_weights(job, geometry), kv_token_bytes(geometry, job.model.kv_format)
        return roofline_timing(geometry, job.model.element_bytes, roofline, requests, weights, kv_bytes, shape)

    match source:
        case Measured():
            return measured_timing(source, layers)
        case Roofline():
            return by(source, shape or slowest)
        case DeclaredTable():
            roofline = find_roofline(job, gpu)
            measured = catalogue_curves(job, geometry, gpu)
            curves = measured_timing(measured, layers) if measured is not None else None
            if curves is None and roofline is not None:
                curves = by(roofline, slowest)
            tokens_per_s = source.tokens_per_s[layers - 1]
            return declared_timing(tokens_per_s, kv_tokens, layers, curves, source.measured_at(requests))


def _curves(job: Job, geometry: ModelGeometry, gpu: str, choice: TimingChoice) -> Measured | None:
    match choice:
        case "measured":
            return device_curves(job, geometry, gpu)
        case "published":
            return find_measured(gpu, geometry, job.model.computed_as)
        case "planned":
            return None
