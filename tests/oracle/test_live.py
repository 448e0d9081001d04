"""Layer splits of our model against transformers run beside it, on full logits."""

from __future__ import annotations

import functools
import itertools
import tempfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helix_df.layers import LayerRange
from helix_df.models.weights import load_shard
from helix_df.profiles.read_geometry import read_geometry
from helix_df.spec.source import ModelSource
from tests.oracle.checkpoints import CONFIGS, write_checkpoint

torch = pytest.importorskip("torch", reason="torch isn't installed: pip install 'helix-df[oracle]'")
transformers = pytest.importorskip(
    "transformers", reason="transformers isn't installed: pip install 'helix-df[oracle]'"
)
pytestmark = pytest.mark.oracle


@functools.cache
def checkpoint(name: str) -> tuple[ModelSource, Any]:
    folder = Path(tempfile.mkdtemp(prefix="helix-df-oracle-"))
    path = write_checkpoint(folder, name)
    model = transformers.LlamaForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    return ModelSource("hf", str(path)), model


@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data(), name=st.sampled_from(sorted(CONFIGS)))
def test_split_shards_equal_transformers(data, name):
    source, model = checkpoint(name)
    geometry = read_geometry(source)
    cuts = data.draw(st.sets(st.integers(1, geometry.num_layers - 1)))
    ids = data.draw(st.lists(st.integers(0, geometry.vocab_size - 1), min_size=1, max_size=40))
    bounds = [0, *sorted(cuts), geometry.num_layers]
    state = jnp.asarray([ids])
    for start, stop in itertools.pairwise(bounds):
        state = load_shard(source, geometry, LayerRange(start, stop))(state)
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits.numpy()
    np.testing.assert_allclose(np.asarray(state), expected, atol=1e-3)
