"""What the official client sees."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest

from helix_df.errors import HelixError, RequestError
from tests.api.fakes import FakeService, not_ready, prompt_text, queue_full, user


async def test_models(client):
    listed = await client.models.list()
    assert [model.id for model in listed.data] == ["tiny"]
    model = await client.models.retrieve("tiny")
    assert (model.object, model.created, model.owned_by) == ("model", 1_700_000_000, "helix-df")
    with pytest.raises(openai.NotFoundError) as error:
        await client.models.retrieve("org/other")
    assert error.value.code == "model_not_found"


async def test_chat(client, service):
    answer = await client.chat.completions.create(model="tiny", messages=user("Hi"))
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == "tiny"
    (choice,) = answer.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "stop", None)
    assert (choice.message.role, choice.message.content) == ("assistant", "Hello, world!")
    prompt = "user: Hi\nassistant: "
    assert prompt_text(service.requests[0]) == prompt
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(prompt), 13)
    assert answer.usage.total_tokens == len(prompt) + 13
    assert service.requests[0].max_tokens == 200 - len(prompt)


async def test_chat_takes_text_parts_and_developer_messages(client, service):
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": "three", "refusal": None, "tool_calls": None, "annotations": []},
        {"role": "user", "content": "four", "name": "anna"},
    ]
    await client.chat.completions.create(model="tiny", messages=messages)
    assert prompt_text(service.requests[0]) == (
        "system: Be brief.\nuser: one two\nassistant: three\nuser: four\nassistant: "
    )


async def test_chat_stream(client):
    stream = await client.chat.completions.create(model="tiny", messages=user("Hi"), stream=True)
    chunks = [chunk async for chunk in stream]
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello, world!"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert all(chunk.usage is None for chunk in chunks)


async def test_stream_with_usage(client):
    stream = await client.chat.completions.create(
        model="tiny", messages=user("Hi"), stream=True, stream_options={"include_usage": True}, max_tokens=3
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 3
    assert chunks[-1].usage.prompt_tokens == len("user: Hi\nassistant: ")
    assert chunks[-2].choices[0].finish_reason == "length"
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_completion(client, service):
    answer = await client.completions.create(model="tiny", prompt="Say")
    assert answer.object == "text_completion"
    assert answer.choices[0].text == "Hello, world!"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": 3,
        "completion_tokens": 13,
        "total_tokens": 16,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert service.requests[0].max_tokens == 16
    assert service.requests[0].sampling.temperature == 1.0
    assert service.requests[0].sampling.top_p == 1.0


async def test_completion_of_several_prompts_several_times(client, service):
    service.answer = lambda request: f"{prompt_text(request)}{request.sampling.seed}"
    answer = await client.completions.create(model="tiny", prompt=["a", "b"], n=2, seed=7)
    assert [(choice.index, choice.text) for choice in answer.choices] == [(0, "a7"), (1, "a8"), (2, "b7"), (3, "b8")]
    assert answer.usage.prompt_tokens == 2
    assert answer.usage.completion_tokens == 8
    assert len({request.id for request in service.requests}) == 4


@pytest.mark.parametrize("streamed", [False, True])
async def test_cached_tokens_count_once_for_each_prompt(client, service, streamed):
    service.answer = lambda request: "x"
    service.cached = lambda request: {"a": 32, "b": 16 * request.sampling.seed}[prompt_text(request)[0]]
    asked = {"model": "tiny", "prompt": ["a" * 40, "b" * 40], "n": 2, "seed": 0}
    if streamed:
        stream = await client.completions.create(**asked, stream=True, stream_options={"include_usage": True})
        usage = [chunk async for chunk in stream][-1].usage
    else:
        usage = (await client.completions.create(**asked)).usage
    # The second prompt's first answer had to compute all of it.
    assert usage.prompt_tokens_details.cached_tokens == 32
    assert usage.prompt_tokens == 80


@pytest.mark.parametrize("prompt", [[104, 105], [[104, 105]], ["hi"], "hi"])
async def test_completion_of_every_kind_of_prompt(client, service, prompt):
    answer = await client.completions.create(model="tiny", prompt=prompt, echo=True)
    assert service.requests[0].prompt == (104, 105)
    assert answer.choices[0].text == "hiHello, world!"


async def test_completion_stream_with_echo_and_n(client, service):
    service.answer = lambda request: f"<{request.sampling.seed}>"
    stream = await client.completions.create(model="tiny", prompt="p", n=3, seed=1, echo=True, stream=True)
    texts = ["", "", ""]
    async for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == ["p<1>", "p<2>", "p<3>"]


async def test_characters_of_several_tokens_arrive_whole(client, service):
    service.answer = "größer 🦊!"
    stream = await client.completions.create(model="tiny", prompt="p", stream=True, max_tokens=50)
    pieces = [chunk.choices[0].text async for chunk in stream]
    assert "".join(pieces) == "größer 🦊!"
    assert "🦊" in pieces


@pytest.mark.parametrize("streamed", [False, True])
async def test_stop_strings_span_tokens(client, service, streamed):
    service.answer = "one STX two STOP three"
    asked = {"model": "tiny", "prompt": "p", "stop": ["STOP", "never"], "max_tokens": 50}
    if streamed:
        chunks = [chunk async for chunk in await client.completions.create(**asked, stream=True)]
        text, finish = "".join(chunk.choices[0].text for chunk in chunks), chunks[-1].choices[0].finish_reason
    else:
        answer = await client.completions.create(**asked)
        text, finish = answer.choices[0].text, answer.choices[0].finish_reason
        assert answer.usage.completion_tokens == len("one STX two STOP")
    assert (text, finish) == ("one STX two ", "stop")
    assert service.open == 0


async def test_a_possible_stop_string_at_the_end_is_shown(client, service):
    service.answer = "one STO"
    answer = await client.completions.create(model="tiny", prompt="p", stop="STOP")
    assert answer.choices[0].text == "one STO"


async def test_sampling_parameters_are_passed_on(client, service):
    await client.completions.create(
        model="tiny",
        prompt="p",
        max_tokens=14,
        temperature=0.25,
        top_p=0.5,
        seed=-1,
        extra_body={"top_k": 4, "ignore_eos": True},
    )
    sampling = service.requests[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (0.25, 0.5, 4, 2**32 - 1)
    assert service.requests[0].stop_ids == frozenset()


async def test_token_ids_on_request(client, service):
    service.answer = "aß"
    asked = {"model": "tiny", "prompt": "p", "extra_body": {"return_token_ids": True}}
    whole = await client.completions.create(**asked)
    assert whole.choices[0].model_extra["token_ids"] == [97, 0xC3, 0x9F]
    chunks = [chunk async for chunk in await client.completions.create(**asked, stream=True)]
    # A token that ends no character has a chunk of its own all the same.
    found = [(chunk.choices[0].text, chunk.choices[0].model_extra["token_ids"]) for chunk in chunks]
    assert found == [("a", [97]), ("", [0xC3]), ("ß", [0x9F]), ("", [])]
    plain = await client.completions.create(model="tiny", prompt="p")
    assert "token_ids" not in plain.choices[0].model_extra


async def test_without_a_seed_every_request_draws_its_own(client, service):
    for _ in range(2):
        await client.completions.create(model="tiny", prompt="p")
    assert [request.sampling.seed for request in service.requests] == [1000, 1001]


async def test_chat_logprobs(client):
    answer = await client.chat.completions.create(
        model="tiny", messages=user("Hi"), max_completion_tokens=2, logprobs=True, top_logprobs=2
    )
    first, _ = answer.choices[0].logprobs.content
    assert (first.token, first.logprob, first.bytes) == ("H", -0.5, [72])
    assert [(other.token, other.logprob) for other in first.top_logprobs] == [("H", -0.5), ("z", -2.0)]


@pytest.mark.parametrize("streamed", [False, True])
async def test_completion_logprobs(client, streamed):
    asked = {"model": "tiny", "prompt": "p", "max_tokens": 2, "logprobs": 2}
    if streamed:
        parts = [c.choices[0].logprobs async for c in await client.completions.create(**asked, stream=True)]
    else:
        parts = [(await client.completions.create(**asked)).choices[0].logprobs]
    assert [token for part in parts for token in part.tokens] == ["H", "e"]
    assert [offset for part in parts for offset in part.text_offset] == [0, 1]
    assert parts[0].top_logprobs[0] == {"H": -0.5, "z": -2.0}


async def test_a_wrong_model(client):
    with pytest.raises(openai.NotFoundError) as error:
        await client.chat.completions.create(model="gpt-4", messages=user("Hi"))
    assert (error.value.code, error.value.param, error.value.type) == (
        "model_not_found",
        "model",
        "invalid_request_error",
    )


@pytest.mark.parametrize(("prompt", "max_tokens", "numbers"), [("x" * 300, 1, "300"), ("x" * 100, 101, "201")])
async def test_a_prompt_over_the_context(client, prompt, max_tokens, numbers):
    with pytest.raises(openai.BadRequestError) as error:
        await client.completions.create(model="tiny", prompt=prompt, max_tokens=max_tokens)
    assert (error.value.code, error.value.param) == ("context_length_exceeded", "prompt")
    assert "200 tokens" in str(error.value)
    assert numbers in str(error.value)


async def test_refusals_of_the_service(client, service):
    service.refusal = queue_full()
    for streamed in (False, True):
        with pytest.raises(openai.RateLimitError) as error:
            await client.completions.create(model="tiny", prompt="p", stream=streamed)
        assert error.value.code == "queue_full"
    service.refusal = None
    service.status = not_ready()
    with pytest.raises(openai.InternalServerError) as unready:
        await client.completions.create(model="tiny", prompt="p")
    assert (unready.value.status_code, unready.value.code) == (503, "not_ready")
    assert "node left is loading" in str(unready.value)


@pytest.mark.parametrize("failure", [RequestError("worker left is gone", status=503), HelixError("bad"), ValueError()])
async def test_an_error_in_mid_stream_is_an_event(client, service, failure):
    service.error_after = (5, failure)
    stream = await client.completions.create(model="tiny", prompt="p", stream=True)
    text = "".join([(await anext(stream)).choices[0].text for _ in range(5)])
    with pytest.raises(openai.APIError) as error:
        await anext(stream)
    assert text == "Hello"
    if isinstance(failure, RequestError):
        assert "worker left is gone" in str(error.value)


async def test_one_failing_sample_ends_the_others(client, service):
    service.error_after = (5, RequestError("gone", status=503))
    with pytest.raises(openai.InternalServerError):
        await client.completions.create(model="tiny", prompt="p", n=3)
    assert service.open == 0


async def test_an_inner_error_is_a_500_in_the_same_shape(client, service):
    service.error_after = (0, ZeroDivisionError())
    with pytest.raises(openai.InternalServerError) as error:
        await client.completions.create(model="tiny", prompt="p")
    assert (error.value.status_code, error.value.type) == (500, "server_error")


async def test_the_synchronous_client_over_a_port(server, service):
    def talk() -> tuple[str, str]:
        with openai.OpenAI(api_key="none", base_url=f"{server}/v1", max_retries=0) as client:
            chat: Any = user("Hi")
            whole = client.chat.completions.create(model="tiny", messages=chat).choices[0].message.content
            stream = client.completions.create(model="tiny", prompt="p", stream=True)
            return whole, "".join(chunk.choices[0].text for chunk in stream)

    assert await asyncio.to_thread(talk) == ("Hello, world!", "Hello, world!")


async def test_tokens_arrive_as_they_are_generated(server, service):
    service.pause_after = 5
    async with openai.AsyncOpenAI(api_key="none", base_url=f"{server}/v1", max_retries=0) as client:
        stream = await client.completions.create(model="tiny", prompt="p", stream=True)
        text = ""
        async for chunk in stream:
            text += chunk.choices[0].text
            if text == "Hello":
                await service.paused.wait()
                service.go_on.set()
    assert text == "Hello, world!"


@pytest.mark.parametrize("body", [{}, {"stream": True}, {"n": 2}, {"n": 2, "stream": True}])
@pytest.mark.parametrize("pause_after", [0, 3])
async def test_a_client_that_leaves_cancels(server, service: FakeService, body, pause_after):
    service.pause_after = pause_after
    async with httpx.AsyncClient(base_url=server) as client:
        asked = {"model": "tiny", "prompt": "p", **body}
        posting = asyncio.create_task(client.post("/v1/completions", json=asked))
        await service.paused.wait()
        posting.cancel()
        await asyncio.gather(posting, return_exceptions=True)
    await asyncio.wait_for(service.ended.wait(), 5)


async def test_a_chat_without_a_limit_stays_in_the_smallest_kv_cache(client, service):
    small = replace(service.status.nodes[0], kv_capacity_tokens=60)
    service.status = replace(service.status, nodes=(small, *service.status.nodes[1:]))
    await client.chat.completions.create(model="tiny", messages=user("Hi"))
    assert service.requests[0].max_tokens == 60 - len("user: Hi\nassistant: ")
