"""What ends an answer, and what it must not have, in answers of a job over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest

from helix_df.models.streaming_text import StopMatcher
from tests.structured.job import Served, served


@pytest.fixture
async def job() -> AsyncIterator[Served]:
    async with served() as running:
        yield running


async def test_wishes_are_kept_and_the_same_seed_says_the_same(job: Served) -> None:
    plain = await job.complete(temperature=0, max_tokens=30, return_token_ids=True, ignore_eos=True)
    ids = plain["token_ids"]
    often = max(set(ids), key=ids.count)
    assert ids.count(often) > 3
    less = await job.complete(temperature=0, max_tokens=30, return_token_ids=True, frequency_penalty=2)
    assert less["token_ids"].count(often) < ids.count(often)
    never = await job.complete(temperature=0, max_tokens=30, return_token_ids=True, logit_bias={str(often): -100})
    assert often not in never["token_ids"]
    always = await job.complete(temperature=1, max_tokens=9, return_token_ids=True, logit_bias={"97": 100}, top_k=-1)
    assert always["text"] == "a" * 9
    asked = {"seed": 3, "repetition_penalty": 1.4, "presence_penalty": 0.5, "min_p": 0.02, "max_tokens": 25}
    assert await job.complete(**asked) == await job.complete(**asked)


async def test_what_ends_an_answer(job: Served) -> None:
    plain = (await job.complete(temperature=0, max_tokens=30, return_token_ids=True))["token_ids"]
    stop = plain[5]
    before = plain[: plain.index(stop)]
    cut = await job.complete(temperature=0, max_tokens=30, return_token_ids=True, stop_token_ids=[stop])
    assert (cut["token_ids"], cut["finish_reason"]) == (before, "stop")
    told = await job.complete(
        temperature=0, max_tokens=30, return_token_ids=True, stop_token_ids=[stop], include_stop_str_in_output=True
    )
    assert (told["token_ids"], told["finish_reason"]) == ([*before, stop], "stop")
    text = {"logit_bias": {"97": 100}, "stop": ["aa"], "max_tokens": 9}
    assert (await job.complete(**text))["text"] == ""
    assert (await job.complete(**text, include_stop_str_in_output=True))["text"] == "aa"
    later = await job.complete(**text, min_tokens=4)
    assert (later["text"], later["finish_reason"]) == ("aaaa", "stop")
    longer = await job.complete(
        temperature=0, max_tokens=30, return_token_ids=True, stop_token_ids=[stop], min_tokens=12
    )
    assert stop not in longer["token_ids"][:12]
    assert len(longer["token_ids"]) >= 12


async def test_the_best_of_several_are_told_best_first(job: Served) -> None:
    body = {"model": "tiny", "prompt": ["p", "q"], "seed": 4, "max_tokens": 6, "logprobs": 0}
    every = (await job.http.post("/v1/completions", json=body | {"n": 5})).json()
    best = (await job.http.post("/v1/completions", json=body | {"n": 2, "best_of": 5})).json()
    for prompt in range(2):
        own = every["choices"][5 * prompt : 5 * prompt + 5]
        own.sort(key=lambda choice: -np.mean(choice["logprobs"]["token_logprobs"]))
        assert [one["text"] for one in best["choices"][2 * prompt : 2 * prompt + 2]] == [one["text"] for one in own[:2]]
    assert [choice["index"] for choice in best["choices"]] == [0, 1, 2, 3]
    assert best["usage"] == every["usage"]
    without = (await job.http.post("/v1/completions", json={**body, "logprobs": None, "best_of": 3})).json()
    assert [choice["logprobs"] for choice in without["choices"]] == [None, None]


def test_the_stop_that_is_included_is_the_first_whole_one() -> None:
    matcher = StopMatcher(["end", "en"], included=True)
    assert matcher.push("an e") + matcher.push("nd of it") == "an en"
    assert matcher.stopped
