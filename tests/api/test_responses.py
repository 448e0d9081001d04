"""``/v1/responses`` as the official client sees it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from helix_df.errors import RequestError
from helix_df.runtime.api.app import create_app
from tests.api.fakes import FakeService, prompt_text, text_service, user
from tests.api.test_tools import CALLS, TEMPLATE

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "Says how it is.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}


@pytest.fixture
async def client(service: FakeService) -> AsyncIterator[openai.AsyncOpenAI]:
    transport = httpx.ASGITransport(app=create_app(text_service(service, 900, TEMPLATE)))
    speaker: Any = httpx.AsyncClient(transport=transport, base_url="http://test")
    async with openai.AsyncOpenAI(api_key="none", base_url="http://test/v1", http_client=speaker, max_retries=0) as one:
        yield one


async def test_a_response(client, service):
    service.cached = lambda request: 5
    response = await client.responses.create(
        model="tiny", instructions="Be brief.", input="Hi", temperature=0.5, store=False, metadata={"a": "b"}
    )
    assert (response.object, response.status, response.error) == ("response", "completed", None)
    assert response.output_text == "Hello, world!"
    prompt = "<system>Be brief.<user>Hi"
    assert prompt_text(service.requests[0]) == prompt
    assert service.requests[0].sampling.temperature == response.temperature == 0.5
    usage = response.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (len(prompt), 13, len(prompt) + 13)
    assert usage.input_tokens_details.cached_tokens == 5
    assert response.instructions == "Be brief."


@pytest.mark.parametrize("streamed", [False, True])
async def test_one_that_is_cut_off(client, streamed):
    asked: Any = {"model": "tiny", "input": user("Hi"), "max_output_tokens": 5}
    if streamed:
        async with client.responses.stream(**asked) as stream:
            kinds = [event.type async for event in stream]
        assert kinds[-1] == "response.incomplete"
        assert "response.output_text.done" in kinds
        return
    response = await client.responses.create(**asked)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert response.output[0].status == "incomplete"
    assert response.output_text == "Hello"


async def test_thoughts_and_calls_streamed_and_whole(client, service):
    service.answer = CALLS
    asked: Any = {"model": "tiny", "max_output_tokens": 400, "input": "Weather?", "tools": [WEATHER]}
    whole = await client.responses.create(**asked)
    thought, said, first, second = whole.output
    assert thought.content[0].text == "Where?"
    assert said.content[0].text == whole.output_text == "I'll look."
    assert [(one.name, json.loads(one.arguments)) for one in (first, second)] == [
        ("weather", {"city": "Zürich 😀"}),
        ("weather", {"city": "Rome"}),
    ]
    assert whole.usage.output_tokens_details.reasoning_tokens > 0
    listed = json.loads(prompt_text(service.requests[0]).partition("\n")[0])
    assert listed["function"]["parameters"] == WEATHER["parameters"]

    async with client.responses.stream(**asked) as stream:
        events = [event async for event in stream]
        told = await stream.get_final_response()
    drop = {"id", "call_id", "parsed_arguments", "parsed"}
    assert [json.loads(item.model_dump_json(exclude=drop)) | {"content": None} for item in told.output] == [
        json.loads(item.model_dump_json(exclude=drop)) | {"content": None} for item in whole.output
    ]
    assert told.output_text == whole.output_text
    assert [event.sequence_number for event in events if hasattr(event, "sequence_number")] == sorted(
        {event.sequence_number for event in events if hasattr(event, "sequence_number")}
    )
    kinds = [event.type for event in events]
    assert kinds[:3] == ["response.created", "response.in_progress", "response.output_item.added"]
    assert kinds.count("response.function_call_arguments.delta") > 20
    assert kinds.count("response.output_item.done") == 4
    assert kinds[-1] == "response.completed"


async def test_a_conversation_goes_on_from_what_it_has(client, service):
    service.answer = CALLS
    asked: Any = {"model": "tiny", "max_output_tokens": 400, "tools": [WEATHER]}
    first = await client.responses.create(**asked, input="Weather?")
    calls = [item for item in first.output if item.type == "function_call"]
    results = [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"} for call in calls]
    service.answer = "Fine."
    again = [*user("Weather?"), *(item.model_dump(exclude_none=True) for item in first.output), *results]
    answer = await client.responses.create(**asked, input=again)
    assert answer.output_text == "Fine."
    one, two = (call.call_id for call in calls)
    assert prompt_text(service.requests[1]).partition("<user>")[2] == (
        f"Weather?<assistant>I'll look.<tool_call>weather(Zürich 😀){one}<tool_call>weather(Rome){two}"
        "<tool>sunny=weather<tool>sunny=weather"
    )


async def test_a_forced_call_and_a_schema(client, service):
    service.answer = '[{"name": "weather", "arguments": {"city": "Bern"}}]'
    choice: Any = {"type": "function", "name": "weather"}
    response = await client.responses.create(
        model="tiny", input="Weather?", max_output_tokens=99, tools=[WEATHER], tool_choice=choice
    )
    assert (response.output[0].name, response.output[0].arguments) == ("weather", '{"city": "Bern"}')
    service.answer = '{"a": 1}'
    form: Any = {"format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}, "strict": True}}
    response = await client.responses.create(model="tiny", input="Hi", text=form)
    assert response.output_text == '{"a": 1}'
    assert service.requests[-1].sampling.constraint is not None


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"model": "other"}, "model"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, None),
        ({"input": []}, "input"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"tool_choice": "required"}, "tool_choice"),
    ],
)
async def test_what_it_refuses(client, changes, param):
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as error:
        await client.responses.create(**({"model": "tiny", "input": "Hi"} | changes))
    assert param is None or error.value.param == param


async def test_one_that_breaks_off(client, service):
    service.error_after = (3, RequestError("the path is gone", status=503))
    *_, last = [event async for event in await client.responses.create(model="tiny", input="Hi", stream=True)]
    assert (last.type, last.message) == ("error", "the path is gone")


async def test_what_is_too_long_is_called_by_its_own_name(client):
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(model="tiny", input="too long " * 200)
    assert caught.value.param == "input"
    assert "context" in caught.value.message
