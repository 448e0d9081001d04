"""Which attention kernels a worker asks for: named, measured, or refused with a reason. No GPU is asked: what would be
compiled for one is interpreted."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import EntryPoint
from typing import Any

import jax.numpy as jnp
import pytest

from helix_df import plugins
from helix_df.errors import DeploymentError, ModelError, SpecError
from helix_df.load import parse_job
from helix_df.models import fused_attention, paged_attention
from helix_df.profiles import attention_kernels as kernels
from helix_df.profiles.attention_kernels import FUSED, OURS, PAGED, AttentionChoice, AttentionKernel
from helix_df.profiles.geometry import AttentionOptions, LatentOptions, ModelGeometry
from helix_df.runtime.worker import attention_choice
from helix_df.runtime.worker.attention_choice import AttentionBatches, KernelTimes, TriedKernel, choose_attention

TINY = ModelGeometry("llama", 2, 32, 64, num_heads=4, num_kv_heads=2, head_dim=16, vocab_size=64, context_length=256)
BATCHES = AttentionBatches(rows=2, piece=8, context=32, page_tokens=16)


def chosen(name: str, platform: str, geometry: ModelGeometry = TINY, kv: Any = None) -> str:
    return choose_attention(name, geometry, "float32", kv, BATCHES, platform=platform).words


def test_a_cpu_has_nothing_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_choice, "try_kernel", None)
    assert chosen("auto", "cpu") == chosen("gather", "gpu") == "gather"
    assert chosen("fused", "cpu") == "fused"


def test_an_accelerator_takes_the_fastest_of_each_kind(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", attention_choice.__name__)
    words = chosen("auto", "gpu")
    assert words in {
        "gather",
        "fused",
        *(f"{a}, {b} for prompts" for a in ("gather", "fused", "paged") for b in ("gather", "fused")),
    }
    (told,) = [one.getMessage() for one in caplog.records if one.name == attention_choice.__name__]
    assert all(name in told for name in ("gather", "fused", "paged", " ms"))
    assert "not paged (pieces of prompts: it decodes)" in told
    assert "not paged" not in told.partition("; prefill")[0], "it computes what ours does"


def test_the_fastest_is_chosen_by_kind() -> None:
    measured = KernelTimes(
        (TriedKernel(OURS, 0.003), TriedKernel(FUSED, 0.002), TriedKernel(PAGED, 0.001)),
        (
            TriedKernel(OURS, 0.003),
            TriedKernel(FUSED, 0.004),
            TriedKernel(PAGED, None, "pieces of prompts: it decodes"),
        ),
    )
    assert measured.fastest == AttentionChoice(PAGED, OURS)
    assert measured.fastest.words == "paged, gather for prompts"
    assert KernelTimes((), (TriedKernel(FUSED, None, "sinks"),)).fastest == AttentionChoice()


def test_a_kernel_by_name_does_what_it_can_and_ours_the_rest() -> None:
    assert chosen("paged", "gpu") == "paged, gather for prompts"
    assert chosen("paged", "gpu", kv="int8") == "paged, gather for prompts"
    assert chosen("fused", "gpu") == "fused"


@pytest.mark.parametrize(
    ("name", "platform", "said"),
    [("paged", "cpu", "platform cpu"), ("paged", "tpu", "platform tpu"), ("fused", "gpu", "capped scores")],
)
def test_a_kernel_that_can_do_nothing_here_is_refused(name: str, platform: str, said: str) -> None:
    capped = replace(TINY, attention=AttentionOptions(softcap=20.0))
    with pytest.raises(DeploymentError, match=r"runtime\.attention") as caught:
        chosen(name, platform, capped)
    assert said in str(caught.value)
    assert "auto | gather | fused | paged" in str(caught.value)


def test_a_kernel_that_computes_something_else_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", attention_choice.__name__)
    attention_choice._program.cache_clear()
    monkeypatch.setattr(fused_attention, "attend", lambda q, *_: jnp.full((*q.shape[:2], 64), jnp.nan))
    monkeypatch.setattr(paged_attention, "attend", _raising)
    try:
        assert chosen("auto", "gpu") == "gather"
        with pytest.raises(DeploymentError, match="it computes something else"):
            chosen("fused", "gpu")
        with pytest.raises(DeploymentError, match="no kernel image"):
            chosen("paged", "gpu")
    finally:
        attention_choice._program.cache_clear()
    assert "not paged (RuntimeError: no kernel image)" in caplog.text


def _raising(*_: object) -> None:
    raise RuntimeError("no kernel image\nand much more")


def test_a_package_brings_a_kernel_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    own = AttentionKernel("own", "is ours by another name", "helix_df.models.attention:gather", lambda case: None)
    monkeypatch.setattr(kernels, "own", own, raising=False)
    entry = EntryPoint("own", f"{kernels.__name__}:own", kernels.KERNELS.group)
    monkeypatch.setattr(plugins, "entry_points", lambda group, **_: [entry])
    assert list(kernels.attention_kernels()) == ["gather", "fused", "paged", "own"]
    assert chosen("own", "cpu") == "own"
    monkeypatch.setattr(kernels, "own", "a name")
    with pytest.raises(ModelError, match="own of another package"):
        kernels.attention_kernels()


JOB = """
model: {source: 'random:tiny'}
nodes: {a: {gpu: L4}}
links: {default: {bandwidth: 1Gbps}}
runtime: {attention: NAME}
"""


def test_a_job_names_one_that_there_is() -> None:
    for name in ("auto", "gather", "fused"):
        assert parse_job(JOB.replace("NAME", name)).runtime.attention == name
    with pytest.raises(SpecError) as caught:
        parse_job(JOB.replace("NAME", "fussed"))
    assert "runtime.attention" in str(caught.value)
    assert "did you mean 'fused'" in str(caught.value)
    assert "auto, or one of gather, fused, paged" in str(caught.value)


def test_a_kernel_that_the_model_cannot_use_is_refused_when_the_job_is_read() -> None:
    with pytest.raises(SpecError) as caught:
        parse_job(JOB.replace("NAME", "fused").replace("tiny", "deepseek-v3"))
    assert "fused, which lacks values that are part of keys" in str(caught.value)


def test_latents_are_ours_alone() -> None:
    latents = replace(TINY, num_kv_heads=4, latent=LatentOptions(rank=16, rotated=8, values=12))
    for platform in ("cpu", "gpu"):
        for name in ("fused", "paged"):
            with pytest.raises(DeploymentError, match=r"part of keys|platform cpu"):
                chosen(name, platform, latents)
    assert chosen("auto", "gpu", latents) == "gather"
