"""Every family's logits and greedy tokens against those recorded from transformers, without and with a paged cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helix_df.models.weights import load_shard
from helix_df.profiles.read_geometry import check_weights, read_geometry
from helix_df.runtime.worker.engine import Engine
from helix_df.runtime.worker.single_process import generate_in_process
from helix_df.spec.source import ModelSource
from tests.oracle.cases import NEW_TOKENS, RECORDED, prompt_ids
from tests.oracle.family_checkpoints import FAMILY_CONFIGS, LENGTHS, lengths_of, write_family
from tests.oracle.family_gguf import GGUF_NAMES, write_family_gguf
from tests.whole_model import whole_logits


@pytest.mark.parametrize("name", FAMILY_CONFIGS)
def test_families(tmp_path, name):
    recorded = np.load(RECORDED / "families.npz")
    source = ModelSource("hf", str(write_family(tmp_path, name)))
    geometry = read_geometry(source)
    check_weights(source, geometry)
    model = load_shard(source, geometry, layout="panels")
    # Few shapes, of a layer each: compiling takes most of the time.
    sizes: dict[str, Any] = {
        "num_pages": 20,
        "max_batch": 1,
        "max_prefill": 32,
        "layers_per_call": 1,
        "pages_at_once": 2,
    }
    engine = Engine(model, window=geometry.attention.windowed(model.layers)[1], **sizes)
    ids = prompt_ids(geometry.vocab_size, max(LENGTHS))
    logits = whole_logits(model, ids[None])[0]
    for length in lengths_of(name):
        np.testing.assert_allclose(logits[length - 1], recorded[f"{name}.logits.{length}"], atol=1e-3)
        tokens = list(generate_in_process(engine, ids[:length].tolist(), NEW_TOKENS))
        assert tokens == recorded[f"{name}.tokens.{length}"].tolist()


@pytest.mark.parametrize("kind", ["hf", "gguf"])
def test_experts_in_four_bits(tmp_path, kind):
    """They were on that grid before, so nothing is lost."""
    recorded = np.load(RECORDED / "families.npz")
    write = write_family if kind == "hf" else write_family_gguf
    source = ModelSource(kind, str(write(tmp_path, "gpt-oss", mxfp4=True)))
    geometry = read_geometry(source)
    check_weights(source, geometry)
    ids = prompt_ids(geometry.vocab_size, max(LENGTHS))
    logits = whole_logits(load_shard(source, geometry), ids[None])[0]
    for length in LENGTHS:
        np.testing.assert_allclose(logits[length - 1], recorded[f"gpt-oss.logits.{length}"], atol=1e-3)


@pytest.mark.parametrize("name", GGUF_NAMES)
def test_families_in_gguf(tmp_path, name):
    recorded = np.load(RECORDED / "families.npz")
    source = ModelSource("gguf", str(write_family_gguf(tmp_path, name)))
    geometry = read_geometry(source)
    check_weights(source, geometry)
    ids = prompt_ids(geometry.vocab_size, max(LENGTHS))
    logits = whole_logits(load_shard(source, geometry), ids[None])[0]
    for length in lengths_of(name):
        np.testing.assert_allclose(logits[length - 1], recorded[f"{name}.logits.{length}"], atol=1e-3)
