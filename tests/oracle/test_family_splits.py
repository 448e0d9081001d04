"""Wherever a family's layers are cut, the stages one after the other give the logits recorded from transformers."""

from __future__ import annotations

import functools
import itertools
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helix_df.layers import LayerRange
from helix_df.models.weights import load_shard
from helix_df.profiles.read_geometry import read_geometry
from helix_df.spec.source import ModelSource
from tests.oracle.cases import RECORDED, prompt_ids
from tests.oracle.family_checkpoints import FAMILY_CONFIGS, lengths_of, write_family


@functools.cache
def source_of(name: str) -> ModelSource:
    return ModelSource("hf", str(write_family(Path(tempfile.mkdtemp(prefix="helix-df-splits-")), name)))


@pytest.mark.parametrize("name", FAMILY_CONFIGS)
@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_every_split_is_the_whole_model(name, data):
    source, recorded = source_of(name), np.load(RECORDED / "families.npz")
    geometry = read_geometry(source)
    cuts = data.draw(st.sets(st.integers(1, geometry.num_layers - 1), min_size=1))
    length = data.draw(st.sampled_from(lengths_of(name)))
    state = jnp.asarray(prompt_ids(geometry.vocab_size, length)[None])
    for start, stop in itertools.pairwise([0, *sorted(cuts), geometry.num_layers]):
        state = load_shard(source, geometry, LayerRange(start, stop))(state)
    np.testing.assert_allclose(np.asarray(state)[0, -1], recorded[f"{name}.logits.{length}"], atol=1e-3)
