"""Tools and thoughts as the official client sees them, over a service whose tokens are bytes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from helix_df.models.chat import ChatTemplate
from helix_df.runtime.api.app import create_app
from property_tests.test_answer_formats import FAMILIES, LISTED, message_of
from tests.api.fakes import FakeService, prompt_text, text_service, user
from tests.api.test_reconnect import NAMED, FakeKeeper, client_of, parsed

TEMPLATE = (
    "{% if tools %}{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls %}<tool_call>{{ c.function.name }}({{ c.function.arguments.city }}){{ c.id }}{% endfor %}"
    "{% if m.role == 'tool' %}={{ m.name }}{% endif %}{% endfor %}{# <think> #}"
)
WEATHER: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
CALLS = (
    "<think>\nWhere?\n</think>\n\nI'll look.\n"
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich 😀"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
)


@pytest.fixture
async def client(service: FakeService) -> AsyncIterator[openai.AsyncOpenAI]:
    transport = httpx.ASGITransport(app=create_app(text_service(service, 900, TEMPLATE)))
    speaker: Any = httpx.AsyncClient(transport=transport, base_url="http://test")
    async with openai.AsyncOpenAI(api_key="none", base_url="http://test/v1", http_client=speaker, max_retries=0) as one:
        yield one


async def test_calls_and_thoughts_streamed_and_whole(client, service):
    service.answer = CALLS
    asked: Any = {"model": "tiny", "messages": user("Weather?"), "tools": [WEATHER], "max_completion_tokens": 400}
    whole = await client.chat.completions.create(**asked)
    (choice,) = whole.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "I'll look."
    assert choice.message.reasoning_content == "Where?"
    assert [
        (call.function.name, json.loads(call.function.arguments)["city"]) for call in choice.message.tool_calls
    ] == [
        ("weather", "Zürich 😀"),
        ("weather", "Rome"),
    ]
    assert len({call.id for call in choice.message.tool_calls}) == 2
    assert prompt_text(service.requests[0]) == json.dumps(WEATHER) + "\n<user>Weather?"

    async with client.chat.completions.stream(**asked) as stream:
        events = [event async for event in stream]
        told = (await stream.get_final_completion()).choices[0]
    assert told.finish_reason == "tool_calls"
    assert told.message.content == "I'll look."
    assert [(call.function.name, call.function.arguments) for call in told.message.tool_calls] == [
        (call.function.name, call.function.arguments) for call in choice.message.tool_calls
    ]
    pieces = [event for event in events if event.type == "tool_calls.function.arguments.delta"]
    assert len(pieces) > 30  # arguments come as they are written
    thought = "".join(
        getattr(event.chunk.choices[0].delta, "reasoning_content", "") for event in events if event.type == "chunk"
    )
    assert thought == "Where?"


async def test_a_chat_goes_on_with_calls_and_their_results(client, service):
    service.answer = CALLS
    asked: Any = {"model": "tiny", "messages": user("Weather?"), "tools": [WEATHER], "max_completion_tokens": 400}
    message = (await client.chat.completions.create(**asked)).choices[0].message
    results = [{"role": "tool", "tool_call_id": call.id, "content": f"{at} degrees"} for at, call in
               enumerate(message.tool_calls)]  # fmt: skip
    service.answer = "Fine."
    answer = await client.chat.completions.create(**asked | {"messages": [*user("Weather?"), message, *results]})
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("Fine.", "stop")
    first, second = (call.id for call in message.tool_calls)
    assert prompt_text(service.requests[1]).partition("<user>")[2] == (
        f"Weather?<assistant>I'll look.<tool_call>weather(Zürich 😀){first}<tool_call>weather(Rome){second}"
        "<tool>0 degrees=weather<tool>1 degrees=weather"
    )


async def test_a_single_call_where_only_one_is_wanted(client, service):
    service.answer = CALLS
    asked: Any = {"model": "tiny", "messages": user("Weather?"), "tools": [WEATHER], "parallel_tool_calls": False}
    asked["max_completion_tokens"] = 400
    choice = (await client.chat.completions.create(**asked)).choices[0]
    assert [json.loads(call.function.arguments)["city"] for call in choice.message.tool_calls] == ["Zürich 😀"]
    assert choice.finish_reason == "tool_calls"
    assert service.open == 0


async def test_a_model_that_must_not_call_is_told_of_no_tools(client, service):
    service.answer = 'So: <tool_call>{"name": "weather", "arguments": {}}</tool_call>'
    answer = await client.chat.completions.create(
        model="tiny", messages=user("Weather?"), tools=[WEATHER], tool_choice="none"
    )
    assert answer.choices[0].message.content == service.answer
    assert prompt_text(service.requests[0]) == "<user>Weather?"


@pytest.mark.parametrize(
    "text", ["<tool_call>{nothing}</tool_call>", '<tool_call>{"name": "\\ud83d", "arguments": {}}', "<tool_call>"]
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_malformed_calls_are_text(client, service, text, streamed):
    service.answer = text
    asked: Any = {"model": "tiny", "messages": user("Weather?"), "tools": [WEATHER]}
    if streamed:
        chunks = [chunk.choices[0] async for chunk in await client.chat.completions.create(**asked, stream=True)]
        assert "".join(chunk.delta.content or "" for chunk in chunks) == text
        assert chunks[-1].finish_reason == "stop"
    else:
        choice = (await client.chat.completions.create(**asked)).choices[0]
        assert (choice.message.content, choice.message.tool_calls, choice.finish_reason) == (text, None, "stop")


async def test_a_model_without_a_place_for_tools_is_told_in_words(http, service):
    service.answer = '{"name": "weather", "arguments": {"city": "Bern"}}'
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    asked = {
        "model": "tiny",
        "max_tokens": 80,
        "messages": [
            *user("Rome?"),
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "sunny"}]},
            *user("Bern?"),
        ],
    }
    long = create_app(text_service(service, 2000))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=long), base_url="http://test") as http:
        answer = await http.post("/v1/chat/completions", json=asked | {"tools": [WEATHER]})
    choice = answer.json()["choices"][0]
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city": "Bern"}'}
    prompt = prompt_text(service.requests[0])
    assert prompt.startswith("system: You can call functions.")
    assert prompt.endswith(
        'user: Rome?\nassistant: {"name": "weather", "arguments": {"city": "Rome"}}\n'
        "user: Result of weather: sunny\nBern?\nassistant: "
    )


@pytest.mark.parametrize("unwritten", [0, 20])
async def test_who_comes_back_in_the_middle_of_a_call_gets_the_rest_of_it(unwritten):
    service = FakeService(CALLS)
    keeper = FakeKeeper(service)
    _, http = client_of(service, keeper, template=TEMPLATE)
    body = {"model": "tiny", "messages": [{"role": "user", "content": "?"}], "tools": [WEATHER], "stream": True}
    whole = parsed((await http.post("/v1/chat/completions", json=body, headers=NAMED)).text)
    await keeper.write(unwritten)
    for at in range(0, len(whole), 7):
        reconnects, http = client_of(service, keeper, template=TEMPLATE)
        reconnects.go_on()
        place, document = whole[at]
        rest = parsed((await http.get(f"/helix/requests/{document['id']}", headers={"Last-Event-ID": place})).text)
        assert [document for _, document in rest if document["choices"][0]["delta"]] == [
            document for _, document in whole[at + 1 :] if document["choices"][0]["delta"]
        ]
        await reconnects.close()


@pytest.mark.parametrize(
    ("template", "asked", "expected"),
    [
        ("{{ reasoning_effort }}", {"reasoning_effort": "low"}, "low"),
        ("{{ enable_thinking }}", {"reasoning_effort": "none"}, "False"),
        ("{{ enable_thinking }}", {"reasoning_effort": "high"}, "True"),
        ("{{ enable_thinking }}", {"chat_template_kwargs": {"enable_thinking": False}}, "False"),
        ("{{ tone }}{{ messages[0].content }}", {"chat_template_kwargs": {"tone": "dry", "messages": []}}, "dryHi"),
        ("{{ messages[0].content }}", {"reasoning_effort": "none"}, "Hi"),
        ("{{ messages[0].content }}", {"reasoning_effort": "low"}, None),
    ],
)
async def test_what_a_template_is_told_of_thinking(service, template, asked, expected):
    app = create_app(text_service(service, 200, template))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as http:
        body = {"model": "tiny", "messages": user("Hi")} | asked
        answer = await http.post("/v1/chat/completions", json=body)
    if expected is None:
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "reasoning_effort")
    else:
        assert prompt_text(service.requests[0]) == expected


async def test_a_template_that_refuses_system_messages_is_told_of_tools_by_the_user(service):
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "<{{ m.role }}>{{ m.content }}{% endfor %}"
    )
    app = create_app(text_service(service, 900, template))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as http:
        body = {"model": "tiny", "messages": user("Hi"), "tools": [WEATHER]}
        assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
        system = [{"role": "system", "content": "Be brief."}, *body["messages"]]
        assert (await http.post("/v1/chat/completions", json=body | {"messages": system})).status_code == 400
    prompt = prompt_text(service.requests[0])
    assert prompt.startswith("<user>You can call functions.")
    assert prompt.endswith("\n\nHi")


@pytest.mark.parametrize("name", FAMILIES)
async def test_each_familys_own_form_cut_at_every_byte(service, name):
    family = FAMILIES[name]
    called = [("weather", {"city": "Zürich 😀", "n": [1, {"a": '}"]</tool_call>'}]}), ("time_in-2", {})]
    called = called[: family.most_calls]
    said = "" if name.startswith("llama3") else "Löök:"
    thought = "Hm 🤔." if family.thinks else ""
    template = ChatTemplate(family.template)
    asking = {"role": "user", "content": "?"}
    before = template.render([asking], tools=LISTED)
    chat = [asking, message_of(said, thought, called)]
    whole = template.render(chat, tools=LISTED, add_generation_prompt=False)
    service.answer = whole[len(before) :].removesuffix(family.ends[0])
    app = create_app(text_service(service, 5000, family.template))
    speaker: Any = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test")
    asked: Any = {"model": "tiny", "messages": user("?"), "tools": LISTED, "max_completion_tokens": 900}
    async with openai.AsyncOpenAI(api_key="none", base_url="http://test/v1", http_client=speaker) as client:
        answer = (await client.chat.completions.create(**asked)).choices[0]
        async with client.chat.completions.stream(**asked) as stream:
            streamed = (await stream.get_final_completion()).choices[0]
    for one in (answer, streamed):
        assert one.finish_reason == "tool_calls"
        assert (one.message.content or "") == said
        assert [(call.function.name, json.loads(call.function.arguments)) for call in one.message.tool_calls] == called
    assert getattr(answer.message, "reasoning_content", "") == thought
