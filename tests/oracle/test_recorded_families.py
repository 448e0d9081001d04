"""Every family's logits and greedy tokens against those recorded from transformers, without and with a paged cache."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helix_df.models.weights import load_shard
from helix_df.profiles.read_geometry import check_weights, read_geometry
from helix_df.runtime.worker.engine import Engine
from helix_df.runtime.worker.single_process import generate_in_process
from helix_df.spec.source import ModelSource
from tests.oracle.cases import NEW_TOKENS, RECORDED, prompt_ids
from tests.oracle.family_checkpoints import FAMILY_CONFIGS, lengths_of, write_family


@pytest.mark.parametrize("name", FAMILY_CONFIGS)
def test_families(tmp_path, name):
    recorded = np.load(RECORDED / "families.npz")
    source = ModelSource("hf", str(write_family(tmp_path, name)))
    geometry = read_geometry(source)
    check_weights(source, geometry)
    engine = Engine(load_shard(source, geometry, layout="panels"), num_pages=20, max_batch=1, pages_at_once=2)
    shard = jax.jit(engine.programs.shard)
    for length in lengths_of(name):
        ids = prompt_ids(FAMILY_CONFIGS[name]["vocab_size"], length)
        logits = np.asarray(shard(jnp.asarray(ids[None])))[0, -1]
        np.testing.assert_allclose(logits, recorded[f"{name}.logits.{length}"], atol=1e-3)
        tokens = list(generate_in_process(engine, ids.tolist(), NEW_TOKENS))
        assert tokens == recorded[f"{name}.tokens.{length}"].tolist()
