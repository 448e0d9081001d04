"""Planning and simulation take a GPU's speed from the same source."""

from __future__ import annotations

import pytest

from helix_df.errors import SpecError
from helix_df.graph.compile import gpu_throughput, origin_of
from helix_df.graph.speed_source import DeclaredCurves, DeclaredTable, is_measured, speed_source
from helix_df.graph.stage_timing import stage_timing
from helix_df.load import parse_job
from helix_df.profiles.catalogue import Measured
from helix_df.profiles.throughput import Roofline
from helix_df.profiles.timing import closed_form, measured_timing
from helix_df.spec.job import Job

GPUS = {
    "nothing said of a measured device": ("T4", "", Measured),
    "nothing said of a catalogued device": ("H100-80GB", "", Roofline),
    # Measured curves are of the whole device: with other memory, planning counts with its roofline, and so must timing.
    "memory alone": ("T4", "T4: {memory: 14GB}", Roofline),
    "a roofline": ("T4", "T4: {memory: 14GB, profile: {compute: 20TFLOPS, bandwidth: 200GB/s}}", Roofline),
    "a table": (
        "T4",
        "T4: {profile: {tokens_per_s: [900, 500, 300], kv_tokens: [90000, 70000, 60000]}}",
        DeclaredTable,
    ),
    "a table of an unknown device": ("box", "box: {memory: 14GB, profile: {tokens_per_s: [900, 500]}}", DeclaredTable),
    "curves": (
        "T4",
        "T4: {memory: 14GB, profile: {prefill_ms: [[16, 2], [64, 4]], decode_ms: [[1, 1], [4, 2]]}}",
        DeclaredCurves,
    ),
}


def job_with(gpu: str, gpus: str) -> Job:
    return parse_job(
        f"model: {{source: 'random:llama-30b', dtype: float16}}\ngpus: {{{gpus}}}\n"
        f"nodes: {{one: {{gpu: {gpu}}}}}\nlinks: {{default: {{bandwidth: 1Gbps}}}}\n"
    )


@pytest.mark.parametrize(("gpu", "gpus", "kind"), GPUS.values(), ids=GPUS)
def test_the_closed_form_of_a_timing_is_the_planned_throughput(gpu: str, gpus: str, kind: type) -> None:
    job = job_with(gpu, gpus)
    origin = origin_of(job)
    source = speed_source(job, origin.geometry, gpu)
    assert isinstance(source, kind)
    assert is_measured(job, origin.geometry, gpu) == (kind in (Measured, DeclaredCurves))
    planned = gpu_throughput(job, origin.geometry, origin.requests, gpu)
    for layers, (tokens_per_s, kv_tokens) in enumerate(
        zip(planned.tokens_per_s, planned.kv_tokens, strict=True), start=1
    ):
        timing = stage_timing(job, origin.geometry, origin.requests, gpu, layers, kv_tokens, "planned")
        found = closed_form(timing, kv_tokens, layers, origin.requests)
        # Throughput from measured curves is kept from growing with layers; its own closed form may dent.
        assert found == pytest.approx(tokens_per_s, rel=1e-6) or (kind is Measured and found > tokens_per_s)


def test_measured_curves_count_where_the_job_says_something_else() -> None:
    job = job_with(*GPUS["a table"][:2])
    origin = origin_of(job)
    plain = job_with("T4", "")
    measured = speed_source(plain, origin.geometry, "T4")
    assert isinstance(measured, Measured)
    found = stage_timing(job, origin.geometry, origin.requests, "T4", 2, 70000)
    assert found == measured_timing(measured, 2)


@pytest.mark.parametrize("case", ["memory alone", "a roofline", "curves"])
def test_curves_are_not_of_a_device_with_other_memory_nor_before_the_jobs_own(case: str) -> None:
    gpu, gpus, _ = GPUS[case]
    job = job_with(gpu, gpus)
    origin = origin_of(job)
    usual = stage_timing(job, origin.geometry, origin.requests, gpu, 2, 70000)
    assert usual == stage_timing(job, origin.geometry, origin.requests, gpu, 2, 70000, "planned")


def test_a_speed_that_nobody_knows() -> None:
    job = job_with("T4", "")
    with pytest.raises(SpecError, match="nobody knows how fast"):
        speed_source(job, origin_of(job).geometry, "abacus")
