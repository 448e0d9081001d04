"""What is suggested for a name that isn't known."""

from __future__ import annotations

import pytest

from helix_df.errors import SpecError
from helix_df.load import parse_job
from helix_df.profiles.catalogue import devices
from helix_df.suggestions import closest, did_you_mean


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("H100", "H100-80GB"),
        ("h100", "H100-80GB"),
        ("A100", "A100-40GB"),
        ("rtx4090", "RTX-4090"),
        ("L4OS", "L40S"),
        ("abacus", None),
        ("", None),
    ],
)
def test_a_known_name_that_begins_so_comes_before_one_that_looks_alike(written: str, meant: str | None) -> None:
    assert closest(written, devices()) == meant


def test_the_first_of_several_is_suggested() -> None:
    assert closest("llama", ["llama-7b", "llama-30b-chat", "llama-30b"]) == "llama-7b"
    assert did_you_mean("lamma-7b", ["llama-7b"]) == "; did you mean 'llama-7b'?"
    assert did_you_mean("zebra", ["llama-7b"]) == ""


def test_a_job_with_the_beginning_of_a_gpu_is_told_its_whole_name() -> None:
    text = "model: {source: 'random:tiny'}\nnodes: {a: {gpu: H100}}\nlinks: {default: {bandwidth: 1Gbps}}\n"
    with pytest.raises(SpecError, match="did you mean 'H100-80GB'"):
        parse_job(text)
