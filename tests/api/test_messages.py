"""``/v1/messages`` as Anthropic's official client sees it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from importlib import import_module
from typing import Any

import pytest

from helix_df.errors import RequestError
from helix_df.runtime.api.app import create_app
from helix_df.runtime.api.keys import KeyRing, add_key
from tests.api.fakes import FakeService, prompt_text, text_service, user
from tests.api.test_tools import CALLS, TEMPLATE

anthropic = pytest.importorskip("anthropic")
# Newer clients speak by a fork of httpx.
HTTPX: Any = import_module(anthropic.DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0])

WEATHER: Any = {
    "name": "weather",
    "description": "Says how it is.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}


def client_of(service: FakeService, **options: Any) -> Any:
    app = create_app(text_service(service, 900, TEMPLATE), **options)
    speaker = HTTPX.AsyncClient(transport=HTTPX.ASGITransport(app=app, raise_app_exceptions=False))
    return anthropic.AsyncAnthropic(api_key="none", base_url="http://test", http_client=speaker, max_retries=0)


@pytest.fixture
async def client(service: FakeService) -> AsyncIterator[Any]:
    async with client_of(service) as one:
        yield one


async def test_a_message(client, service):
    service.cached = lambda request: 5
    message = await client.messages.create(
        model="tiny",
        max_tokens=40,
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        messages=user("Hi"),
        metadata={"user_id": "anna"},
        extra_body={"temperature": 0.5, "top_k": 3},
    )
    assert (message.type, message.role, message.model) == ("message", "assistant", "tiny")
    assert [block.model_dump(exclude_none=True) for block in message.content] == [
        {"type": "text", "text": "Hello, world!"}
    ]
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    prompt = "<system>Be brief.<user>Hi"
    assert prompt_text(service.requests[0]) == prompt
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (len(prompt) - 5, 5)
    assert message.usage.output_tokens == 13
    sampling = service.requests[0].sampling
    assert (sampling.temperature, sampling.top_k) == (0.5, 3)


@pytest.mark.parametrize(
    ("asked", "reason", "sequence", "text"),
    [
        ({"max_tokens": 5}, "max_tokens", None, "Hello"),
        ({"max_tokens": 50, "stop_sequences": ["never", "wor"]}, "stop_sequence", "wor", "Hello, "),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_why_a_message_ends(client, asked, reason, sequence, text, streamed):
    if streamed:
        async with client.messages.stream(model="tiny", messages=user("Hi"), **asked) as stream:
            message = await stream.get_final_message()
    else:
        message = await client.messages.create(model="tiny", messages=user("Hi"), **asked)
    assert (message.stop_reason, message.stop_sequence) == (reason, sequence)
    assert message.content[0].text == text


async def test_thoughts_and_calls_streamed_and_whole(client, service):
    service.answer = CALLS
    service.cached = lambda request: 7
    asked: Any = {"model": "tiny", "max_tokens": 400, "messages": user("Weather?"), "tools": [WEATHER]}
    whole = await client.messages.create(**asked)
    assert whole.stop_reason == "tool_use"
    thought, said, first, second = whole.content
    assert (thought.thinking, said.text) == ("Where?", "I'll look.")
    assert [(one.name, one.input) for one in (first, second)] == [
        ("weather", {"city": "Zürich 😀"}),
        ("weather", {"city": "Rome"}),
    ]
    assert first.id != second.id
    async with client.messages.stream(**asked) as stream:
        kinds = [event.type async for event in stream]
        streamed = await stream.get_final_message()
    drop = {"id", "caller"}
    assert [block.model_dump(exclude=drop) for block in streamed.content] == [
        block.model_dump(exclude=drop) for block in whole.content
    ]
    assert streamed.stop_reason == "tool_use"
    assert streamed.usage.model_dump() == whole.usage.model_dump()
    assert kinds.count("content_block_stop") == 4
    assert kinds.count("input_json") > 20


async def test_results_go_back(client, service):
    service.answer = CALLS
    asked: Any = {"model": "tiny", "max_tokens": 400, "tools": [WEATHER]}
    message = await client.messages.create(**asked, messages=user("Weather?"))
    calls = [block for block in message.content if block.type == "tool_use"]
    results = [
        {"type": "tool_result", "tool_use_id": calls[0].id, "content": [{"type": "text", "text": "sunny"}]},
        {"type": "tool_result", "tool_use_id": calls[1].id, "content": "no such city", "is_error": True},
        {"type": "text", "text": "So?"},
    ]
    service.answer = "Fine."
    turns = [*user("Weather?"), {"role": "assistant", "content": message.content}, {"role": "user", "content": results}]
    answer = await client.messages.create(**asked, messages=turns)
    assert answer.content[0].text == "Fine."
    assert prompt_text(service.requests[1]).partition("<user>")[2] == (
        f"Weather?<assistant>I'll look.<tool_call>weather(Zürich 😀){calls[0].id}<tool_call>weather(Rome){calls[1].id}"
        "<tool>sunny=weather<tool>Error: no such city=weather<user>So?"
    )
    listed = json.loads(prompt_text(service.requests[1]).partition("\n")[0])
    assert listed["function"] == {
        "name": "weather",
        "description": "Says how it is.",
        "parameters": WEATHER["input_schema"],
    }


async def test_arguments_that_are_no_object_stand_as_they_were_written(client, service):
    service.answer = '<tool_call>{"name": "weather", "arguments": {"city": oops}}</tool_call>'
    message = await client.messages.create(
        model="tiny", max_tokens=100, messages=user("Weather?"), tools=[WEATHER], tool_choice={"type": "auto"}
    )
    assert message.content[0].input == {"INVALID_JSON": '{"city": oops}'}


async def test_tokens_are_counted(client, service):
    counted = await client.messages.count_tokens(model="tiny", messages=user("Hi"), system="S")
    assert counted.input_tokens == len("<system>S<user>Hi")


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"model": "other"}, "NotFoundError", "does not exist"),
        ({"max_tokens": 0}, "BadRequestError", "max_tokens"),
        ({"messages": []}, "BadRequestError", "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "BadRequestError", "image"),
        ({"messages": [*user("a"), {"role": "assistant", "content": "b"}]}, "BadRequestError", "continued"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "BadRequestError", r"content\[0\]"),
        ({"tools": [WEATHER | {"type": "bash_20250124"}]}, "BadRequestError", r"tools\[0\].type"),
        ({"tool_choice": {"type": "any"}}, "BadRequestError", "tool_choice"),
        ({"tool_choice": {"type": "some"}}, "BadRequestError", "tool_choice.type"),
        ({"extra_body": {"wishes": 1, "mcp_servers": [1]}}, "BadRequestError", "mcp_servers.*wishes"),
        ({"max_tokens": 5000}, "BadRequestError", "context length"),
    ],
)
async def test_errors_are_in_anthropics_words(client, changes, kind, words):
    asked: Any = {"model": "tiny", "max_tokens": 4, "messages": user("Hi")}
    with pytest.raises(getattr(anthropic, kind), match=words) as error:
        await client.messages.create(**asked | changes)
    assert error.value.body["type"] == "error"
    assert error.value.body["error"]["type"] in ("invalid_request_error", "not_found_error")
    assert error.value.request_id == error.value.body["request_id"]


async def test_a_full_queue_and_an_answer_that_breaks_off(client, service):
    service.refusal = RequestError("too many requests wait", code="queue_full", status=429)
    asked: Any = {"model": "tiny", "max_tokens": 9, "messages": user("Hi")}
    with pytest.raises(anthropic.RateLimitError):
        await client.messages.create(**asked)
    service.refusal = None
    service.error_after = (3, RequestError("the path is gone", status=503))
    with pytest.raises(anthropic.APIStatusError, match="the path is gone"):
        async with client.messages.stream(**asked) as stream:
            assert [text async for text in stream.text_stream] == []


async def test_a_key_as_its_client_sends_it(tmp_path):
    file = tmp_path / "keys"
    key = add_key(file, "anna")
    asked: Any = {"model": "tiny", "max_tokens": 9, "messages": user("Hi")}
    async with client_of(FakeService(), keys=KeyRing(file, "secret")) as client:
        with pytest.raises(anthropic.AuthenticationError) as error:
            await client.messages.create(**asked)
        assert error.value.body["error"]["type"] == "authentication_error"
        answer = await client.with_options(api_key=key).messages.create(**asked)
    assert answer.content[0].text == "Hello, wo"
