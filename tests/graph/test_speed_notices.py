"""Users are told where their numbers contradict measured curves, and what is assumed of their tables."""

from __future__ import annotations

import pytest

from helix_df.graph.compile import origin_of
from helix_df.graph.speed_notices import contradictions, speed_notices
from helix_df.graph.stage_timing import node_timing
from helix_df.load import parse_job
from helix_df.spec.job import Job


def job_with(gpu: str, gpus: str, max_batch: int = 16) -> Job:
    return parse_job(
        f"model: {{source: 'random:llama-2-70b', dtype: float16}}\ngpus: {{{gpus}}}\n"
        f"nodes: {{one: {{gpu: {gpu}}}}}\nlinks: {{default: {{bandwidth: 1Gbps}}}}\n"
        f"runtime: {{max_batch: {max_batch}}}\n"
    )


def table(numbers: str, more: str = "", gpu: str = "T4", memory: str = "") -> str:
    return f"{gpu}: {{{memory}profile: {{tokens_per_s: {numbers}, kv_tokens: [90000, 70000]{more}}}}}"


def test_a_table_that_contradicts_the_curves_is_told() -> None:
    job = job_with("T4", table("[6000, 1000]"))
    (found,) = contradictions(job, origin_of(job))
    assert (found.gpu, found.layers, found.declared) == ("T4", 2, 1000.0)
    assert found.measured == pytest.approx(3000, rel=0.01)
    (said,) = speed_notices(job)
    assert "gpus.T4: 1,000 tokens/s with 2 layers, 3,000 by the curves, a factor of 3.0" in said
    assert "helix-df profile" in said


@pytest.mark.parametrize(
    ("gpu", "gpus"),
    [("T4", ""), ("T4", table("[6000, 2900]")), ("H100-80GB", ""), ("T4", table("[5000, 2200]"))],
    ids=["nothing declared", "agrees", "no curves", "off by less"],
)
def test_nothing_is_told_where_nothing_is_contradicted(gpu: str, gpus: str) -> None:
    assert speed_notices(job_with(gpu, gpus)) == ()


def test_a_table_is_compared_at_the_batch_that_it_is_for() -> None:
    small = job_with("T4", table("[1050, 525]", ", measured_at: {batch: 2}"))
    assert contradictions(small, origin_of(small)) == ()
    usual = job_with("T4", table("[1050, 525]"))
    assert contradictions(usual, origin_of(usual))


def test_nodes_that_are_left_out_need_no_word() -> None:
    job = job_with("T4", table("[6000, 1000]"))
    job = job.model_copy(update={"limits": job.limits.model_copy(update={"avoid": ("one",)})})
    assert speed_notices(job) == ()


def test_what_is_assumed_of_a_table_is_told() -> None:
    (said,) = speed_notices(job_with("H100-80GB", table("[6000, 3000]", gpu="H100-80GB")))
    assert "assume 16" in said
    said_so = table("[6000, 3000]", ", measured_at: {batch: 8}", "H100-80GB")
    assert speed_notices(job_with("H100-80GB", said_so)) == ()
    (alone,) = speed_notices(job_with("box", table("[6000, 3000]", gpu="box", memory="memory: 14GB, ")))
    assert "the same at any batch" in alone


@pytest.mark.parametrize("gpu", ["T4", "H100-80GB", "box"])
def test_a_larger_batch_limit_makes_no_device_slower(gpu: str) -> None:
    gpus = table("[6000, 3000]", gpu=gpu, memory="memory: 14GB, ")
    found = []
    for max_batch in (4, 16, 64):
        job = job_with(gpu, gpus, max_batch)
        origin = origin_of(job)
        found.append(node_timing(job, origin.geometry, origin.requests, "one", 2, 70000, "planned"))
    assert found[0] == found[1] == found[2]
