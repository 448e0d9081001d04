"""GGUF models in several files, divided by the gguf package's own writer: the same model, or a refusal."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from helix_df.errors import SpecError
from helix_df.load import parse_job
from helix_df.models.weights import open_weights
from helix_df.profiles.gguf_parts import read_gguf_header
from helix_df.profiles.identity import read_identity
from helix_df.profiles.read_geometry import check_weights, read_geometry
from helix_df.profiles.tensor_names import model_tensors
from helix_df.spec.source import ModelSource
from tests.cases.files import gguf_file, job_text

SPLITS = [{"split_max_tensors": 7}, {"split_max_size": 100_000}, {"split_max_tensors": 20, "small_first_shard": True}]


def parts(source) -> list[Path]:
    return sorted(Path(source.location).parent.glob("*.gguf"))


def refusal(source) -> str:
    with pytest.raises(SpecError) as caught:
        parse_job(job_text(source))
    return str(caught.value)


@pytest.fixture
def split(tmp_path) -> ModelSource:
    return gguf_file(tmp_path, split={"split_max_tensors": 10}, tokens=320)


@pytest.mark.parametrize("how", SPLITS)
def test_a_model_in_parts_is_the_model_in_one_file(tmp_path, how):
    (tmp_path / "whole").mkdir()
    (tmp_path / "split").mkdir()
    whole, split = gguf_file(tmp_path / "whole", tokens=320), gguf_file(tmp_path / "split", tokens=320, split=how)
    assert len(parts(split)) > 2
    assert split.location.endswith(f"-00001-of-{len(parts(split)):05d}.gguf")
    geometry = read_geometry(split)
    assert geometry == read_geometry(whole)
    check_weights(split, geometry)
    one, other = open_weights(whole, geometry), open_weights(split, geometry)
    for name, shape in model_tensors(geometry).items():
        np.testing.assert_array_equal(other.tensor(name, shape), one.tensor(name, shape))
    assert read_identity(split) == read_identity(whole)
    parse_job(job_text(split))


def test_a_missing_part_is_named(split):
    gone = parts(split)[2]
    gone.unlink()
    assert str(gone) in refusal(split)


def test_a_later_part_names_the_first(split):
    message = refusal(ModelSource("gguf", str(parts(split)[1])))
    assert "part 2 of" in message
    assert parts(split)[0].name in message


def test_a_part_under_another_name_cannot_find_the_others(split):
    renamed = Path(split.location).rename(Path(split.location).with_name("model.gguf"))
    assert "found by their names" in refusal(ModelSource("gguf", str(renamed)))


def test_a_part_in_the_place_of_another(split):
    shutil.copy(parts(split)[1], parts(split)[2])
    message = refusal(split)
    assert parts(split)[2].name in message
    assert "again" in message


def test_a_part_of_a_model_with_more_tensors(tmp_path, split):
    (tmp_path / "other").mkdir()
    extra = {"blk.0.attn_q.bias": np.ones(48, np.float32)}
    other = gguf_file(tmp_path / "other", split={"split_max_tensors": 10}, tokens=320, extra=extra)
    assert len(parts(other)) == len(parts(split))
    shutil.copy(parts(other)[-1], parts(split)[-1])
    assert "another number of tensors" in refusal(split)


def test_a_part_that_is_cut_short(split):
    part = parts(split)[1]
    part.write_bytes(part.read_bytes()[:-100])
    message = refusal(split)
    assert "cut short" in message
    assert part.name in message


def test_vocabulary_and_settings_are_the_first_parts(split):
    header = read_gguf_header(Path(split.location), ("tokenizer.ggml.tokens",))
    assert len(header.metadata["tokenizer.ggml.tokens"]) == 320
    assert {tensor.file for tensor in header.tensors.values()} == set(parts(split))
