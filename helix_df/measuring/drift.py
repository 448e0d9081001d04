"""What was planned beside what was measured: batches that workers timed, or a whole profile of a device.

Owns which numbers can be compared honestly. Doesn't measure, and knows no sockets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from helix_df.graph.compile import mean_request, origin_of
from helix_df.graph.stage_timing import node_timing, stage_timing
from helix_df.measuring.device_profile import DeviceProfile
from helix_df.measuring.differences import TOLERANCE, Difference, beyond
from helix_df.plan.plan import Plan, Stage
from helix_df.profiles.catalogue import find_device
from helix_df.profiles.geometry import ModelGeometry
from helix_df.profiles.throughput import Requests, from_curves
from helix_df.profiles.timing import declared_curves
from helix_df.runtime.requests import JobStatus, StageSpeed
from helix_df.spec.job import GpuType, Job


def status_differences(plan: Plan, status: JobStatus, tolerance: float = TOLERANCE) -> tuple[Difference, ...]:
    """Where the workers of a running plan timed something else than the plan was made with."""
    speeds = {node.name: node.speed for node in status.nodes if node.speed is not None}
    return stage_differences(plan, speeds, tolerance)


def stage_differences(
    plan: Plan, speeds: Mapping[str, StageSpeed], tolerance: float = TOLERANCE
) -> tuple[Difference, ...]:
    """Where stages are more than ``tolerance`` times faster or slower than planned.

    A plan from curves or a roofline says how long the timed batches should take. A table of tokens/s doesn't, so there
    the timed batches only bound what is possible, and a difference is told if even the nearer bound is too far off.
    """
    geometry = plan.geometry
    requests = mean_request(plan.job, geometry)
    found = [
        difference
        for stage in plan.stages
        if stage.node in speeds
        for difference in _of_stage(plan.job, geometry, requests, stage, speeds[stage.node])
    ]
    return beyond(found, tolerance)


def profile_differences(job: Job, profile: DeviceProfile, tolerance: float = TOLERANCE) -> tuple[Difference, ...]:
    """Where a device's profile is not what the job says, or the catalogue, if the job says nothing."""
    undeclared = job.gpus.get(profile.gpu, GpuType()).profile is None and find_device(profile.gpu) is None
    if undeclared or not profile.kv_tokens:
        return ()
    origin = origin_of(job)
    geometry, requests = origin.geometry, origin.requests
    layers = min(max(sample.layers for sample in profile.samples), len(profile.kv_tokens))
    kv_tokens = profile.kv_tokens[layers - 1]
    table = _table(job, profile.gpu)
    if table is not None:
        curves = declared_curves(
            profile.curve_ms("prefill"), profile.curve_ms("decode"), profile.kv_tokens, requests.max_batch
        )
        rates = from_curves(curves, requests.undrafted, geometry.num_layers).tokens_per_s
        pairs = enumerate(zip(table, rates, strict=False), start=1)
        return beyond(
            (
                Difference(f"{profile.gpu} with {count} layers", declared, rate, "tokens/s")
                for count, (declared, rate) in pairs
            ),
            tolerance,
        )
    timing = stage_timing(job, geometry, requests, profile.gpu, layers, kv_tokens, "planned")
    prefill = (
        Difference(f"{profile.gpu}, prefill of {tokens} tokens", 1e3 * timing.prefill_s(tokens), ms, "ms per layer")
        for tokens, ms in profile.curve_ms("prefill")
    )
    decode = (
        Difference(f"{profile.gpu}, decode of {batch}", 1e3 * timing.decode_s(batch), ms, "ms per layer")
        for batch, ms in profile.curve_ms("decode")
    )
    return beyond((*prefill, *decode), tolerance)


def _of_stage(
    job: Job, geometry: ModelGeometry, requests: Requests, stage: Stage, speed: StageSpeed
) -> Iterator[Difference]:
    gpu, layers = job.nodes[stage.node].gpu, len(stage.layers)
    where = f"{stage.node} ({gpu}, layers {stage.layers})"
    if _table(job, gpu) is not None:
        low, high = _possible(requests, speed)
        yield Difference(f"{where}, tokens/s", stage.tokens_per_s, min(max(stage.tokens_per_s, low), high), "tokens/s")
        return
    shape = geometry.attention.shape(stage.layers)
    timing = node_timing(job, geometry, requests, stage.node, layers, stage.kv_tokens, "planned", shape)
    yield Difference(
        f"{where}, prefill of {speed.prefill_tokens} tokens",
        1e3 * layers * timing.prefill_s(speed.prefill_tokens),
        1e3 * speed.prefill_s,
        "ms",
    )
    yield Difference(f"{where}, decode of 1 request", 1e3 * layers * timing.decode_s(1), 1e3 * speed.decode_s, "ms")


def _possible(requests: Requests, speed: StageSpeed) -> tuple[float, float]:
    """Least and most tokens/s of a stage with this speed.

    At best the prompt takes no longer than the timed one and ``max_batch`` requests decode in one request's time; at
    worst the prompt costs the timed one's seconds a token and nobody decodes together.
    """
    chunks = max(1.0, requests.input_tokens / speed.prefill_tokens)
    most_s = speed.prefill_s * chunks + requests.output_tokens * speed.decode_s
    least_s = speed.prefill_s + requests.output_tokens * speed.decode_s / requests.max_batch
    return requests.tokens / most_s, requests.tokens / least_s


def _table(job: Job, gpu: str) -> tuple[float, ...] | None:
    profile = job.gpus.get(gpu, GpuType()).profile
    return None if profile is None else profile.tokens_per_s
