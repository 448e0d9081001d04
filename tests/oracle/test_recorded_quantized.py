"""Quantized matrices against what AutoAWQ, AutoGPTQ and compressed-tensors wrote, and logits against transformers'."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from helix_df.models.weights import load_shard, open_weights
from helix_df.profiles.read_geometry import check_weights, read_geometry
from helix_df.spec.source import ModelSource
from tests.oracle.cases import RECORDED, prompt_ids
from tests.oracle.quantized_checkpoints import COMPARED, LENGTH, SIZES, write_quantized
from tests.oracle.quantized_formats import FORMATS
from tests.whole_model import whole_logits

_GPTQ = FORMATS["gptq-zeros"].config
WRITTEN = {
    **{name: FORMATS[name].config for name in ("awq", "ct-int8", "ct-int4", "ct-int4-asymmetric", "ct-fp8-channel")},
    "gptq-zeros": _GPTQ,
    "gptq-int8-zeros": {**_GPTQ, "bits": 8},
    "gptq-order-zeros": {**_GPTQ, "desc_act": True},
}
"""What a configuration says of each recorded matrix."""

MODULE = "model.layers.0.mlp.down_proj"


@pytest.mark.parametrize("name", WRITTEN)
def test_matrices_that_the_formats_own_libraries_wrote(tmp_path, name):
    recorded = np.load(RECORDED / "quantized.npz")
    held = {key.removeprefix(f"{name}."): recorded[key] for key in recorded if key.startswith(f"{name}.")}
    values = held.pop("values")
    held.pop("logits", None)
    if name == "ct-fp8-channel":
        held["weight"] = held["weight"].view(ml_dtypes.float8_e4m3fn)
    (tmp_path / "config.json").write_text(json.dumps({**SIZES, "quantization_config": WRITTEN[name]}))
    save_file({f"{MODULE}.{part}": array for part, array in held.items()}, tmp_path / "model.safetensors")
    source = ModelSource("hf", str(tmp_path))
    read = open_weights(source, read_geometry(source)).tensor(f"{MODULE}.weight", values.shape)
    np.testing.assert_allclose(read, values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", COMPARED)
def test_logits_of_quantized_checkpoints(tmp_path, name):
    source = ModelSource("hf", str(write_quantized(tmp_path, name, wide=True)))
    geometry = read_geometry(source)
    check_weights(source, geometry)
    ids = prompt_ids(geometry.vocab_size, LENGTH)[None]
    logits = whole_logits(load_shard(source, geometry), ids)[0, -1]
    np.testing.assert_allclose(logits, np.load(RECORDED / "quantized.npz")[f"{name}.logits"], atol=1e-3)
