"""Log-probabilities and hidden states of prompts through three workers, against what is recorded of transformers."""

from __future__ import annotations

import asyncio
from typing import get_args

import numpy as np
import pytest

from helix_df.runtime.coordinator.shell import Coordinator
from helix_df.runtime.requests import GenerationRequest, TokenEvent
from helix_df.runtime.sampling import Pooling, SamplingParams
from tests.oracle.cases import RECORDED, SCORED, SCORED_BEST, SCORED_LENGTHS, prompt_ids
from tests.oracle.checkpoints import CONFIGS, write_checkpoint
from tests.oracle.serving import greedy, served


async def scored(job: Coordinator, name: str, prompt: list[int], max_tokens: int) -> TokenEvent:
    sampling = SamplingParams(prompt_logprobs=SCORED_BEST)
    events = [event async for event in job.submit(GenerationRequest(name, tuple(prompt), max_tokens, sampling))]
    assert [event.prompt_scores for event in events[1:]] == [None] * (len(events) - 1)
    assert events[-1].finish == "length"
    assert sum(event.token is not None for event in events) == max_tokens
    return events[0]


@pytest.mark.parametrize("name", SCORED)
async def test_scores_are_transformers_whether_a_prefix_is_kept_or_not(tmp_path, name):
    recorded = np.load(RECORDED / "prompt_scores.npz")
    config = CONFIGS[name]
    prompts = [prompt_ids(config["vocab_size"], length).tolist() for length in SCORED_LENGTHS]
    async with served(f"hf:{write_checkpoint(tmp_path, name)}", config["num_hidden_layers"]) as job:
        for turn in range(2):
            asked = (scored(job, f"{turn}-{len(prompt)}", prompt, turn) for prompt in prompts)
            for length, event in zip(SCORED_LENGTHS, await asyncio.gather(*asked), strict=True):
                found = event.prompt_scores
                assert len(found) == length - 1
                if not found:
                    continue
                key = f"{{}}.{length}".format
                expected = recorded[f"{name}.{key('logprobs')}"]
                np.testing.assert_allclose([one.logprob for one in found], expected, atol=1e-3)
                # Those that are as likely but for rounding may change places.
                np.testing.assert_allclose([one.rank for one in found], recorded[f"{name}.{key('ranks')}"], atol=2)
                tops = np.array([[value for _, value in one.top] for one in found])
                np.testing.assert_allclose(tops, recorded[f"{name}.{key('best')}"], atol=1e-3)
                ids = np.array([[token for token, _ in one.top] for one in found])
                assert (ids == recorded[f"{name}.{key('best_ids')}"]).mean() > 0.98
            # What the next round finds kept isn't computed again for others, but has to be for scores.
            kept = await asyncio.gather(*(greedy(job, f"kept-{turn}-{len(one)}", one, 2) for one in prompts))
            assert any(events[0].cached_tokens for events in kept)


async def pooled(job: Coordinator, prompt: list[int], pooling: Pooling) -> np.ndarray:
    asked = GenerationRequest(f"{pooling}-{len(prompt)}", tuple(prompt), 0, SamplingParams(pooling=pooling))
    (event,) = [event async for event in job.submit(asked)]
    total = np.sum([np.frombuffer(one, "<f4") for one in event.pooled], axis=0)
    return total / (len(prompt) if pooling == "mean" else 1)


@pytest.mark.parametrize("name", SCORED)
async def test_hidden_states_are_transformers_however_many_prompts_there_are(tmp_path, name):
    recorded = np.load(RECORDED / "pooled.npz")
    config = CONFIGS[name]
    prompts = [prompt_ids(config["vocab_size"], length).tolist() for length in SCORED_LENGTHS]
    async with served(f"hf:{write_checkpoint(tmp_path, name)}", config["num_hidden_layers"]) as job:
        await asyncio.gather(*(greedy(job, f"kept-{len(one)}", one, 2) for one in prompts))
        asked = [(prompt, pooling) for prompt in prompts for pooling in get_args(Pooling)]
        found = await asyncio.gather(*(pooled(job, *one) for one in asked))
        for (prompt, pooling), vector in zip(asked, found, strict=True):
            np.testing.assert_allclose(vector, recorded[f"{name}.{pooling}.{len(prompt)}"], atol=1e-3)
