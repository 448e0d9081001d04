"""Quantized safetensors: what is read from them, what stays packed, what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from helix_df.errors import ModelError
from helix_df.layers import LayerRange
from helix_df.models.coded_matrices import coded_levels, coded_values
from helix_df.models.fetched_layers import parts_of
from helix_df.models.weights import load_shard, open_weights
from helix_df.profiles.checkpoint import read_index
from helix_df.profiles.families.llama import LLAMA
from helix_df.profiles.quantization_config import quantization_of
from helix_df.profiles.quantized_matrices import Coding
from helix_df.profiles.read_geometry import check_weights, read_geometry
from helix_df.profiles.weight_bytes import weight_bytes
from helix_df.spec.source import ModelSource
from tests.oracle.quantized_checkpoints import DEEPSEEK, SIZES, meant_tensors, write_quantized
from tests.oracle.quantized_formats import FORMATS, float8
from tests.unit.test_kept_weights import divergence, held_bytes, log_probabilities

EXACT = ("ct-int8", "ct-int4", "ct-int8-packed", "gptq", "gptq-v2", "gptq-int8")
"""Formats whose numbers a packed kind has exactly (these scales are float16, too)."""

NEAR = ("ct-int8-asymmetric", "ct-int4-asymmetric", "awq", "gptq-zeros")
"""Those whose zeros become minima."""


@pytest.mark.parametrize("name", [*FORMATS, DEEPSEEK])
def test_every_tensor_is_what_its_stored_numbers_mean(tmp_path, name):
    source = ModelSource("hf", str(write_quantized(tmp_path, name)))
    geometry = read_geometry(source)
    check_weights(source, geometry)
    reader = open_weights(source, geometry)
    for key, array in meant_tensors(name).items():
        np.testing.assert_allclose(reader.tensor(key, array.shape), array, rtol=1e-6, err_msg=key)


@settings(max_examples=60)
@given(
    name=st.sampled_from(sorted(FORMATS)),
    outputs=st.integers(1, 9),
    inputs=st.integers(1, 13),
    seed=st.integers(0, 2**32 - 1),
)
def test_matrices_of_any_size(tmp_path_factory, name, outputs, inputs, seed):
    """AutoAWQ and AutoGPTQ need whole words, where the others end with a word or block that isn't full."""
    shape = (8 * outputs, 8 * inputs) if name.startswith(("awq", "gptq")) else (outputs * 7, inputs * 5)
    matrix = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    encoded = FORMATS[name].encode(matrix)
    folder = tmp_path_factory.mktemp("matrix")
    (folder / "config.json").write_text(json.dumps({**SIZES, "quantization_config": FORMATS[name].config}))
    save_file(
        {f"model.layers.0.x.{part}": array for part, array in encoded.tensors.items()}, folder / "model.safetensors"
    )
    source = ModelSource("hf", str(folder))
    read = open_weights(source, read_geometry(source)).tensor("model.layers.0.x.weight", shape)
    np.testing.assert_allclose(read, encoded.values, rtol=1e-6)


@pytest.mark.parametrize("name", [*EXACT, *NEAR])
def test_levels_stay_packed(tmp_path, name):
    source = ModelSource("hf", str(write_quantized(tmp_path, name)))
    geometry = read_geometry(source)
    reader = open_weights(source, geometry, kept="stored")
    for key, array in meant_tensors(name).items():
        if "_proj" not in key:
            continue
        kept = reader.quantized(key, array.shape)
        if name in EXACT:
            np.testing.assert_array_equal(kept.values(), array)
        else:
            steps = kept.scales.astype(np.float32).repeat(32, axis=1)
            bound = 1 / 136 if kept.kind.bits == 4 else 1 / 8
            assert (np.abs(kept.values() - array) <= steps * bound).all()


@pytest.mark.parametrize("name", [*EXACT, *NEAR])
def test_planning_counts_what_is_held(tmp_path, name):
    source = ModelSource("hf", str(write_quantized(tmp_path, name)))
    geometry = read_geometry(source)
    for kept in (None, "stored", "int8", "int4"):
        shard, planned = (
            load_shard(source, geometry, LayerRange(0, 1), kept=kept),
            weight_bytes(source, geometry, 4, kept),
        )
        assert held_bytes(shard) == planned.layer + planned.vocabulary
    assert weight_bytes(source, geometry, 4, "stored").layer < weight_bytes(source, geometry, 2, None).layer


def test_packed_layers_compute_what_their_numbers_do(tmp_path):
    source = ModelSource("hf", str(write_quantized(tmp_path, "gptq")))
    ids = np.random.default_rng(0).integers(0, SIZES["vocab_size"], (2, 24))
    numbers, packed = (log_probabilities(source, ids, kept=kept) for kept in (None, "stored"))
    assert not np.array_equal(numbers, packed)
    assert divergence(numbers, packed) < 1e-2


@settings(max_examples=20)
@given(
    outputs=st.integers(1, 40),
    inputs=st.integers(1, 300),
    rows=st.sampled_from((0, 1, 16, 128)),
    seed=st.integers(0, 9),
)
def test_fp8_stays_bit_by_bit_what_it_is(outputs, inputs, rows, seed):
    for columns in (0, 128, 256):
        encoded = float8((rows, columns), "weight_scale", np.float32)(
            np.random.default_rng(seed).standard_normal((outputs, inputs)).astype(np.float32)
        )
        coding = Coding("float8", 8, rows, columns)
        parts = {"weight": encoded.tensors["weight"].view(np.uint8), "weight_scale": encoded.tensors["weight_scale"]}
        kept = coded_levels(coding, parts, (outputs, inputs), "here")
        assert kept.kind == coding.packed_kind
        np.testing.assert_array_equal(kept.values(), coded_values(coding, parts, (outputs, inputs)))
        np.testing.assert_allclose(kept.values(), encoded.values, rtol=1e-6)


@pytest.mark.parametrize("name", ["ct-fp8-block", "fp8", "gptq-order"])
def test_what_no_packed_kind_has_does_not_stay_packed(tmp_path, name):
    source = ModelSource("hf", str(write_quantized(tmp_path, name)))
    geometry = read_geometry(source)
    with pytest.raises(ModelError, match="can't stay packed") as caught:
        weight_bytes(source, geometry, 4, "stored")
    assert "int8 or int4" in str(caught.value)
    assert weight_bytes(source, geometry, 4, "int8").layer < weight_bytes(source, geometry, 2, None).layer


def changed(config, path, value):
    """A copy of ``config`` with the option at ``path`` set."""
    copy = json.loads(json.dumps(config))
    inner = copy
    for key in path[:-1]:
        inner = inner.setdefault(key, {})
    inner[path[-1]] = value
    return copy


_WEIGHTS = ("config_groups", "group_0", "weights")


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("ct-int8", (*_WEIGHTS, "num_bits"), 4),
        ("ct-int8", (*_WEIGHTS, "type"), "float"),
        ("ct-int8", (*_WEIGHTS, "strategy"), "tensor_group"),
        ("ct-int8", (*_WEIGHTS, "strategy"), "attn_head"),
        ("ct-int8", (*_WEIGHTS, "new_option"), 1),
        ("ct-int8", ("format",), "marlin-24"),
        ("ct-int8", ("format",), "nvfp4-pack-quantized"),
        ("ct-int8", ("sparsity_config", "format"), "sparse-24-bitmask"),
        ("ct-int8", ("transform_config",), {"config_groups": {"u": {}}}),
        ("ct-int8", ("config_groups",), {}),
        ("ct-int8", ("config_groups", "group_0", "targets"), []),
        ("ct-fp8-block", (*_WEIGHTS, "block_structure"), None),
        ("ct-int4", (*_WEIGHTS, "group_size"), 0),
        ("ct-int4", (*_WEIGHTS, "num_bits"), 3),
        ("fp8", ("fmt",), "e5m2"),
        ("fp8", ("weight_block_size",), [128]),
        ("fp8", ("activation_scheme",), "block"),
        ("awq", ("version",), "gemv"),
        ("awq", ("zero_point",), False),
        ("awq", ("bits",), 8),
        ("awq", ("group_size",), "all"),
        ("gptq", ("bits",), 3),
        ("gptq", ("checkpoint_format",), "marlin"),
        ("gptq", ("is_marlin_format",), True),
        ("gptq", ("dynamic",), {"-:lm_head": {}}),
        ("gptq", ("pack_dtype",), "int64"),
    ],
)
def test_options_that_are_not_read_are_refused_by_their_path(name, path, value):
    config = {"quantization_config": changed(FORMATS[name].config, path, value)}
    with pytest.raises(ModelError) as caught:
        quantization_of(config, LLAMA, "config.json")
    where = str(caught.value.where)
    assert where.startswith("config.json: quantization_config.")
    assert path[-1] in where or path[-1] in str(caught.value)


def edited(folder, name, edit):
    """The checkpoint ``name`` with its tensors edited."""
    return ModelSource("hf", str(write_quantized(folder, name, edit=edit)))


Q = "model.layers.1.self_attn.q_proj"


def rename(old, new):
    return lambda tensors: tensors.update({f"{Q}.{new}": tensors.pop(f"{Q}.{old}")})


def put(part, array):
    return lambda tensors: tensors.update({f"{Q}.{part}": array})


@pytest.mark.parametrize(
    ("name", "edit", "named"),
    [
        ("ct-int8", rename("weight_scale", "scales"), "scales"),
        ("ct-int8", put("weight_scale", np.ones((5, 1), np.float32)), "(5, 1)"),
        ("ct-int8", put("weight", np.ones((64, 64), np.uint8)), "U8"),
        ("ct-int4", put("input_scale", np.ones(1, np.float32)), "input_scale"),
        ("ct-int4", put("weight_zero_point", np.ones((8, 2), np.int32)), "weight_zero_point"),
        ("ct-int4", put("weight_packed", np.ones((64, 7), np.int32)), "(64, 7)"),
        ("awq", rename("qzeros", "zeros"), "q_proj.zeros"),
        ("awq", lambda tensors: tensors.pop(f"{Q}.qzeros"), "qzeros"),
        ("gptq", lambda tensors: tensors.pop(f"{Q}.g_idx"), "g_idx"),
        ("gptq", put("bias", np.zeros(64, np.float16)), "q_proj.bias"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_before_anything_is_read(tmp_path, name, edit, named):
    source = edited(tmp_path, name, edit)
    with pytest.raises(ModelError) as caught:
        check_weights(source, read_geometry(source))
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (put("qzeros", np.zeros((2, 8), np.int32)), "middle of its levels"),
        (put("g_idx", np.full(64, 7, np.int32)), "no group"),
        (put("g_idx", np.arange(64, dtype=np.int32)[::-1] // 32), "another order"),
    ],
)
def test_what_only_the_numbers_tell_is_found_when_they_are_read(tmp_path, edit, said):
    source = edited(tmp_path, "gptq", edit)
    reader = open_weights(source, read_geometry(source), kept="stored")
    with pytest.raises(ModelError, match=said):
        reader.quantized(f"{Q}.weight", (64, 64))


def test_static_scales_of_activations_are_passed_over(tmp_path):
    """They tell how inputs would be rounded, which ours aren't."""
    source = edited(tmp_path, "fp8", put("input_scale", np.ones((), np.float32)))
    path = tmp_path / "fp8" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(changed(config, ("quantization_config", "activation_scheme"), "static")))
    check_weights(source, read_geometry(source))


def test_a_group_of_modules_is_found_by_name_then_pattern_then_class(tmp_path):
    config = FORMATS["ct-int4"].config
    first = config["config_groups"]["group_0"]
    groups = {
        "all": first,
        "some": {**first, "targets": ["re:.*down_proj"], "weights": {**first["weights"], "group_size": 16}},
        "one": {**first, "targets": ["model.layers.0.mlp.down_proj"], "weights": {**first["weights"], "group_size": 8}},
    }
    found = quantization_of({"quantization_config": {**config, "config_groups": groups}}, LLAMA, "config.json")
    for module, columns in (
        ("model.layers.0.mlp.down_proj", 8),
        ("model.layers.1.mlp.down_proj", 16),
        ("model.layers.1.mlp.up_proj", 32),
    ):
        assert found.coding(f"{module}.weight", {f"{module}.weight_scale"}).columns == columns
        assert found.coding(f"{module}.weight", set()) is None


def test_a_quantized_head_is_fetched_with_the_last_layer(tmp_path):
    def quantize_head(tensors):
        encoded = FORMATS["gptq"].encode(tensors.pop("lm_head.weight"))
        tensors |= {f"lm_head.{part}": array for part, array in encoded.tensors.items()}

    source = ModelSource("hf", str(write_quantized(tmp_path, "gptq", edit=quantize_head)))
    geometry = read_geometry(source)
    check_weights(source, geometry)
    stored = {name: tensor.offset for name, tensor in read_index(tmp_path / "gptq").items()}
    for layers, with_head in ((LayerRange(1, 2), True), (LayerRange(0, 1), False)):
        (ranges,) = parts_of(tmp_path / "gptq", geometry, layers).values()
        fetched = {name for name, offset in stored.items() if offset in dict(ranges)}
        assert ({name for name in stored if name.startswith("lm_head.")} <= fetched) is with_head
        assert f"model.layers.{layers.start}.mlp.down_proj.g_idx" in fetched
