"""Log-probabilities of prompts over HTTP: echoed, as vLLM has them, and as evaluation harnesses ask for them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.structured.job import Served, served

PROMPT = [(7 * at) % 256 for at in range(40)]


@pytest.fixture
async def job() -> AsyncIterator[Served]:
    async with served() as running:
        yield running


async def test_what_was_drawn_is_scored_as_it_was_drawn(job: Served) -> None:
    """Twice: the second time all of it could be found in KV cache."""
    drawn = await job.complete(prompt=PROMPT, temperature=1, seed=3, max_tokens=12, logprobs=3, return_token_ids=True)
    said = drawn["logprobs"]
    for _ in range(2):
        for most in (0, 1):
            asked = {"echo": True, "logprobs": 3, "max_tokens": most, "temperature": 0}
            again = await job.complete(prompt=PROMPT + drawn["token_ids"], **asked)
            found = again["logprobs"]
            stop = 40 + len(drawn["token_ids"])
            assert len(found["token_logprobs"]) == stop + most
            assert found["token_logprobs"][40:stop] == pytest.approx(said["token_logprobs"], abs=1e-3)
            assert [list(top) for top in found["top_logprobs"][40:stop]] == [list(top) for top in said["top_logprobs"]]
            assert (found["token_logprobs"][0], found["top_logprobs"][0]) == (None, None)
            assert "".join(found["tokens"]) == again["text"]
            assert [again["text"][at:] for at in found["text_offset"]] == [
                "".join(found["tokens"][at:]) for at in range(len(found["tokens"]))
            ]
            assert again["finish_reason"] == "length"


async def test_a_harness_sums_log_likelihoods(job: Served) -> None:
    """As lm-eval does it: several prompts of token ids, ``max_tokens`` 1, and the sum over what follows the context."""
    contexts, ends = [PROMPT[:9], PROMPT[:30]], [[1, 2, 3], [250]]
    body = {"model": "tiny", "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
    body["prompt"] = [context + end for context, end in zip(contexts, ends, strict=True)]
    answer = (await job.http.post("/v1/completions", json=body)).json()
    assert answer["usage"]["prompt_tokens"] == 12 + 31
    assert answer["usage"]["completion_tokens"] == 2
    for choice, context, end in zip(answer["choices"], contexts, ends, strict=True):
        own = choice["logprobs"]["token_logprobs"][len(context) : -1]
        tops = choice["logprobs"]["top_logprobs"][len(context) : -1]
        assert len(own) == len(tops) == len(end)
        likely = [max(top.values()) for top in tops]
        assert all(value <= best for value, best in zip(own, likely, strict=True))
        best = await job.complete(prompt=context, temperature=0, max_tokens=1, logprobs=1, return_token_ids=True)
        is_greedy = own[0] == likely[0]
        assert is_greedy == (best["token_ids"] == end[:1])
        assert likely[0] == pytest.approx(best["logprobs"]["token_logprobs"][0], abs=1e-3)


async def test_prompt_logprobs_as_vllm_has_them(job: Served) -> None:
    choice = await job.complete(prompt=PROMPT, prompt_logprobs=2, max_tokens=2, temperature=0)
    first, *scored = choice["prompt_logprobs"]
    assert first is None
    assert len(scored) == 39
    for token, entries in zip(PROMPT[1:], scored, strict=True):
        own = entries[str(token)]
        ranked = sorted(entries.values(), key=lambda entry: entry["rank"])
        assert [entry["rank"] for entry in ranked[:2]] == [1, 2]
        assert len(entries) == 2 + (own["rank"] > 2)
        assert [entry["logprob"] for entry in ranked] == sorted((entry["logprob"] for entry in ranked), reverse=True)
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "prompt_logprobs": 0}
    answer = (await job.http.post("/v1/chat/completions", json=chat)).json()
    assert len(answer["prompt_logprobs"]) == answer["usage"]["prompt_tokens"]
    assert all(len(entries) == 1 for entries in answer["prompt_logprobs"][1:])
    assert "prompt_logprobs" not in (await job.complete(max_tokens=1))


async def test_a_prompt_alone(job: Served) -> None:
    choice = await job.complete(prompt="Say this", echo=True, max_tokens=0)
    assert (choice["text"], choice["finish_reason"], choice["logprobs"]) == ("Say this", "length", None)
    one = await job.complete(prompt=[65], echo=True, max_tokens=0, logprobs=2)
    assert one["logprobs"]["token_logprobs"] == [None]
    assert (await job.complete(max_tokens=0))["text"] == ""


async def test_what_cannot_be_streamed(job: Served) -> None:
    for asked in ({"echo": True, "logprobs": 1}, {"prompt_logprobs": 1}):
        body = {"model": "tiny", "prompt": "p", "stream": True} | asked
        response = await job.http.post("/v1/completions", json=body)
        assert response.status_code == 400
        assert "streamed" in response.json()["error"]["message"]
