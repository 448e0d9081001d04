"""Answers that have to be calls: what their constraints let through, and what becomes of it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_df.errors import RequestError
from helix_df.runtime.api.app import create_app
from helix_df.runtime.api.bodies import ChatBody
from helix_df.runtime.api.forced_calls import calls_constraint
from helix_df.runtime.api.parsing import parse_body
from helix_df.runtime.grammars import Grammars
from tests.api.fakes import FakeService, byte_tokenizer, text_service, user

NODE: Any = {
    "type": "object",
    "properties": {"value": {"type": "integer"}, "next": {"$ref": "#/$defs/Node"}},
    "required": ["value"],
    "additionalProperties": False,
}
CITY: Any = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Bern"]}},
    "required": ["city"],
    "additionalProperties": False,
}
LIST: Any = {
    "type": "object",
    "properties": {"list": {"$ref": "#/$defs/Node"}},
    "required": ["list"],
    "additionalProperties": False,
    "$defs": {"Node": NODE},
}


def tool(name: str, parameters: Any) -> Any:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [tool("weather", CITY), tool("walk", LIST)]
GRAMMARS = Grammars(byte_tokenizer)
nodes = st.recursive(
    st.builds(lambda value: {"value": value}, st.integers(-9, 99)),
    lambda inner: st.builds(lambda value, next_one: {"value": value, "next": next_one}, st.integers(-9, 99), inner),
    max_leaves=3,
)
calls = st.one_of(
    st.builds(lambda city: ("weather", {"city": city}), st.sampled_from(["Rome", "Bern"])),
    st.builds(lambda node: ("walk", {"list": node}), nodes),
)


def accepts(constraint: Any, text: str) -> bool:
    matcher = GRAMMARS.matcher(constraint.constraint)
    tokens = list(text.encode())
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


@given(st.lists(calls, min_size=1, max_size=3))
def test_calls_of_tools_that_there_are_pass_and_no_others(called: list) -> None:
    text = json.dumps([{"name": name, "arguments": arguments} for name, arguments in called])
    several, single = (calls_constraint(TOOLS, "tools", several=more) for more in (True, False))
    assert accepts(several, text)
    assert accepts(single, text) == (len(called) == 1)
    assert not accepts(several, text.replace('"weather"', '"wether"').replace('"walk"', '"run"'))
    assert not accepts(several, "[]")
    assert not accepts(several, json.dumps([{"name": "weather", "arguments": {"city": "Oslo"}}]))


def test_an_answer_may_be_a_call_or_keep_to_a_schema() -> None:
    either = calls_constraint(TOOLS, "response_format", several=True, other=LIST)
    assert accepts(either, '{"list": {"value": 1, "next": {"value": 2}}}')
    assert accepts(either, '[{"name": "weather", "arguments": {"city": "Bern"}}]')
    assert not accepts(either, '{"city": "Bern"}')


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"tool_choice": "required"}, '[{"name": "walk", "arguments": {"list": {"value": 1}}}]'),
        (
            {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
            '[{"name": "weather", "arguments": {"city": "Rome"}}]',
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": CITY}}},
            '{"city": "Rome"}',
        ),
    ],
)
async def test_what_is_forced_is_read_whatever_the_models_own_form(asked: dict, text: str) -> None:
    service = FakeService(text)
    template = "{{ tools is none }}{{ messages[0].content }}<tool_call><think>"  # Qwen's, and it has begun to think
    app = create_app(text_service(service, 900, template))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as http:
        body = {"model": "tiny", "messages": user("Hi"), "tools": TOOLS, "max_tokens": 200} | asked
        answer = await http.post("/v1/chat/completions", json=body)
    choice = answer.json()["choices"][0]
    sent = service.requests[0].sampling.constraint
    matcher = GRAMMARS.matcher(sent)
    assert matcher.try_consume_tokens(list(text.encode())) == len(text)
    if "tool_choice" not in asked:
        assert (choice["message"]["content"], choice["finish_reason"]) == (text, "stop")
        return
    (call,) = choice["message"]["tool_calls"]
    assert {"name": call["function"]["name"], "arguments": json.loads(call["function"]["arguments"])} == json.loads(
        text
    )[0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (None, "tool_calls")


def test_a_call_and_a_schema_at_once_are_refused() -> None:
    body = {
        "model": "tiny",
        "messages": user("Hi"),
        "tools": TOOLS,
        "tool_choice": "required",
        "response_format": {"type": "json_object"},
    }
    with pytest.raises(RequestError, match="response_format") as error:
        parse_body(ChatBody, json.dumps(body).encode()).requests()
    assert error.value.param == "tool_choice"
