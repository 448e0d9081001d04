from __future__ import annotations

import json

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helix_df.errors import ModelError
from helix_df.layers import LayerRange
from helix_df.models.gguf_weights import unpermute
from helix_df.models.random_weights import RandomReader
from helix_df.models.registry import family_builder
from helix_df.models.weights import load_shard, open_weights
from helix_df.profiles.read_geometry import read_geometry
from helix_df.spec.source import ModelSource
from tests.oracle.checkpoints import CONFIGS, write_checkpoint
from tests.unit.gguf_files import permute, write_gguf

TINY = ModelSource("random", "tiny")


def leaves(shard):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(shard)]


def test_unpermute_undoes_what_converters_do():
    rows = np.arange(24 * 3, dtype=np.float32).reshape(24, 3)
    np.testing.assert_array_equal(unpermute(permute(rows, 3), 3), rows)


def test_gguf_gives_the_weights_of_its_checkpoint(tmp_path):
    checkpoint = write_checkpoint(tmp_path, "grouped")
    path = write_gguf(tmp_path / "m.gguf", checkpoint, CONFIGS["grouped"])
    geometry = read_geometry(ModelSource("hf", str(checkpoint)))
    ours, theirs = (
        leaves(load_shard(source, geometry))
        for source in (ModelSource("gguf", str(path)), ModelSource("hf", str(checkpoint)))
    )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("kind", "levels"),
    [("Q8_0", 128), ("Q4_0", 8), ("Q4_1", 8), ("Q5_0", 16), ("Q5_1", 16), ("F16", 1024), ("BF16", 256)],
)
def test_gguf_quantizations(tmp_path, kind, levels):
    values = np.random.default_rng(0).standard_normal((320, 64)).astype(np.float32)
    raw = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("token_embd.weight", raw, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    source = ModelSource("gguf", str(tmp_path / "m.gguf"))
    read = open_weights(source, read_geometry(TINY)).tensor("model.embed_tokens.weight", (320, 64))
    assert np.abs(read - values).max() <= np.abs(values).max() / levels


def test_random_weights_depend_on_seed_and_name_alone():
    geometry = read_geometry(TINY)
    whole = load_shard(TINY, geometry, seed=3)
    part = load_shard(TINY, geometry, LayerRange(2, 4), seed=3)
    for ours, theirs in zip(part.blocks, list(whole.blocks)[2:], strict=True):
        np.testing.assert_array_equal(ours.qkv[...], theirs.qkv[...])
    np.testing.assert_array_equal(part.head[...], whole.head[...])
    assert np.any(RandomReader(4).tensor("lm_head.weight", (320, 64)) != whole.head[...])


def test_random_weights_never_change():
    """A change of these numbers changes every benchmark and demonstration that names a seed."""
    values = RandomReader(0).tensor("model.layers.0.mlp.up_proj.weight", (2, 3))
    pinned = [[0.0037033, -0.0332857, -0.0143285], [-0.0060112, -0.0360316, -0.0067508]]
    np.testing.assert_allclose(values, pinned, atol=1e-6)


@pytest.mark.parametrize(
    ("layers", "held"),
    [
        (LayerRange(0, 4), {"embedding", "final_norm", "head"}),
        (LayerRange(0, 2), {"embedding"}),
        (LayerRange(1, 3), set()),
        (LayerRange(3, 4), {"final_norm", "head"}),
    ],
)
def test_a_shard_holds_its_end_of_the_model(layers, held):
    shard = load_shard(TINY, read_geometry(TINY), layers)
    assert {name for name in ("embedding", "final_norm", "head") if getattr(shard, name) is not None} == held
    assert len(shard.blocks) == len(layers)


def test_tied_models_need_the_embedding_at_both_ends(tmp_path):
    source = ModelSource("hf", str(write_checkpoint(tmp_path, "tied")))
    last = load_shard(source, read_geometry(source), LayerRange(3, 5))
    assert last.head is None
    assert last.embedding is not None


def test_bfloat16_is_kept(tmp_path):
    source = ModelSource("hf", str(write_checkpoint(tmp_path, "sharded-bf16")))
    shard = load_shard(source, read_geometry(source), dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in leaves(shard)} == {jnp.dtype(jnp.bfloat16)}
    assert shard(jnp.array([[1, 2]])).dtype == jnp.float32


def test_layers_beyond_the_model():
    with pytest.raises(ValueError, match=r"\[0, 5\)"):
        load_shard(TINY, read_geometry(TINY), LayerRange(0, 5))


def test_what_a_shard_lacks_is_said():
    shard = load_shard(TINY, read_geometry(TINY), LayerRange(1, 2))
    with pytest.raises(ValueError, match="embedding"):
        shard.embed(jnp.array([[1]]))


def test_unknown_family():
    with pytest.raises(ModelError, match="llama"):
        family_builder("mamba")


def test_missing_gguf_tensor(tmp_path):
    checkpoint = write_checkpoint(tmp_path, "grouped")
    path = write_gguf(tmp_path / "m.gguf", checkpoint, CONFIGS["grouped"], skip="blk.3.ffn_up.weight")
    source = ModelSource("gguf", str(path))
    geometry = read_geometry(source)
    load_shard(source, geometry, LayerRange(0, 3))
    with pytest.raises(ModelError, match=r"m\.gguf(.|\n)*blk\.3\.ffn_up\.weight"):
        load_shard(source, geometry)


def test_cut_gguf_data(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", write_checkpoint(tmp_path, "grouped"), CONFIGS["grouped"])
    path.write_bytes(path.read_bytes()[:-5000])
    source = ModelSource("gguf", str(path))
    with pytest.raises(ModelError, match="cut short"):
        load_shard(source, read_geometry(source))


def test_missing_sharded_tensor(tmp_path):
    checkpoint = write_checkpoint(tmp_path, "sharded-bf16")
    index = checkpoint / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    del content["weight_map"]["model.layers.1.mlp.down_proj.weight"]
    index.write_text(json.dumps(content))
    source = ModelSource("hf", str(checkpoint))
    with pytest.raises(ModelError, match=r"index\.json(.|\n)*model\.layers\.1\.mlp\.down_proj\.weight"):
        load_shard(source, read_geometry(source))
    assert load_shard(source, read_geometry(source), LayerRange(0, 1))


def test_missing_shard_file(tmp_path):
    checkpoint = write_checkpoint(tmp_path, "sharded-bf16")
    (checkpoint / "model-00002-of-00003.safetensors").unlink()
    source = ModelSource("hf", str(checkpoint))
    with pytest.raises(ModelError, match="model-00002-of-00003"):
        load_shard(source, read_geometry(source))


def test_pickled_weights_are_refused_with_a_way_out(tmp_path):
    checkpoint = write_checkpoint(tmp_path, "grouped")
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    source = ModelSource("hf", str(checkpoint))
    with pytest.raises(ModelError, match="convert it to safetensors"):
        load_shard(source, read_geometry(source))


def test_weights_that_dont_fit_the_config(tmp_path):
    checkpoint = write_checkpoint(tmp_path, "grouped")
    config = {**CONFIGS["grouped"], "intermediate_size": 96}
    (checkpoint / "config.json").write_text(json.dumps(config))
    source = ModelSource("hf", str(checkpoint))
    with pytest.raises(ModelError, match=r"gate_proj(.|\n)*\(112, 48\)(.|\n)*\(96, 48\)"):
        load_shard(source, read_geometry(source))
