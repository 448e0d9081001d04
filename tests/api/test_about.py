"""What the server says of itself, tokens of prompts, and how it treats fields and names that it needn't know."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from helix_df import __version__
from helix_df.runtime.api.answers import describe
from helix_df.runtime.api.app import create_app
from helix_df.runtime.api.keys import KeyRing, add_key
from helix_df.runtime.api.stream import EventStream
from tests.api.fakes import FakeService, text_service, user


async def test_version_ping_and_the_models_limits(http):
    assert (await http.get("/version")).json() == {"version": __version__}
    assert (await http.get("/ping")).status_code == (await http.post("/ping")).status_code == 200
    model = (await http.get("/v1/models/tiny")).json()
    assert model["max_model_len"] == 200
    assert model["limits"] == {"choices": 128, "logprobs": 20, "stops": 4, "body_bytes": 20_000, "queue": None}


async def test_tokens_of_a_text_and_of_a_chat_and_back(http):
    answer = (await http.post("/tokenize", json={"model": "tiny", "prompt": "hé", "return_token_strs": True})).json()
    assert answer == {
        "count": 3,
        "max_model_len": 200,
        "tokens": [104, 0xC3, 0xA9],
        "token_strs": ["h", "\ufffd", "\ufffd"],
    }
    back = await http.post("/detokenize", json={"tokens": answer["tokens"]})
    assert back.json() == {"prompt": "hé"}
    chat = (await http.post("/tokenize", json={"messages": user("Hi")})).json()
    assert bytes(chat["tokens"]).decode() == "user: Hi\nassistant: "
    chat = (await http.post("/tokenize", json={"messages": user("Hi"), "add_generation_prompt": False})).json()
    assert bytes(chat["tokens"]).decode() == "user: Hi\n"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("tokenize", {}, "prompt"),
        ("tokenize", {"prompt": "a", "messages": user("b")}, "prompt"),
        ("tokenize", {"prompt": "a", "model": "other"}, "model"),
        ("tokenize", {"messages": [{"role": "wizard"}]}, "messages[0].role"),
        ("detokenize", {"tokens": [1, 999]}, "tokens"),
        ("detokenize", {"tokens": [1] * 201}, "tokens"),
        ("detokenize", {"tokens": "abc"}, "tokens"),
    ],
)
async def test_what_they_refuse(http, path, body, param):
    response = await http.post(f"/{path}", json=body)
    assert response.status_code in (400, 404)
    assert response.json()["error"]["param"] == param


async def test_all_that_changes_an_answer_is_refused_at_once(http):
    body = {"model": "tiny", "prompt": "p", "suffix": "x", "moderation": True, "temprature": 1, "store": True}
    error = (await http.post("/v1/completions", json=body)).json()["error"]
    assert error["code"] == "unsupported_parameter"
    for name in ("suffix", "moderation", "temprature"):
        assert f"'{name}'" in error["message"]
    assert "store" not in error["message"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_what_nothing_is_made_of_is_named(http, streamed):
    body = {"model": "tiny", "prompt": "p", "user": "anna", "store": True, "stream": streamed}
    if streamed:
        body["stream_options"] = {"include_usage": True, "chunk_wisely": 3}
    response = await http.post("/v1/completions", json=body)
    assert response.status_code == 200
    names = ["user", "store", *(["stream_options.chunk_wisely"] if streamed else [])]
    assert sorted(response.headers["X-Helix-Ignored"].split(", ")) == sorted(names)
    assert "X-Helix-Ignored" not in (await http.post("/v1/completions", json={"model": "tiny", "prompt": "p"})).headers


async def test_usage_in_every_chunk(http):
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {"model": "tiny", "messages": user("Hi"), "max_tokens": 4, "stream": True, "stream_options": options}
    text = (await http.post("/v1/chat/completions", json=body)).text
    chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [0, 1, 2, 3, 4, 4]
    assert {chunk["usage"]["prompt_tokens"] for chunk in chunks} == {len("user: Hi\nassistant: ")}


@pytest.mark.parametrize("path", ["/health", "/nowhere"])
async def test_ids_of_requests_are_echoed(http, path):
    assert (await http.get(path, headers={"X-Request-Id": "mine-1"})).headers["X-Request-Id"] == "mine-1"
    made = [(await http.get(path, headers={"X-Request-Id": bad})).headers["X-Request-Id"] for bad in ("", "a b")]
    assert len(set(made)) == 2
    assert all(one.startswith("req_") for one in made)


async def test_a_silent_stream_says_that_it_is_there():
    waits = asyncio.Event()

    async def documents():
        yield {"a": 1}
        await waits.wait()
        yield {"b": 2}

    sent = []

    async def send(message):
        sent.append(message.get("body", b""))
        if sent.count(b": ping\n\n") == 2:
            waits.set()

    async def receive():
        await asyncio.Event().wait()

    await EventStream(documents(), describe, ping_s=0.001)({"type": "http"}, receive, send)
    assert [body for body in sent if body != b": ping\n\n"] == [
        b"",
        b'data: {"a":1}\n\n',
        b'data: {"b":2}\n\n',
        b"data: [DONE]\n\n",
    ]


@pytest.mark.parametrize(("origins", "allowed"), [(("https://a.org",), "https://a.org"), (("*",), "*"), ((), None)])
async def test_web_pages_may_ask_if_the_job_says_so(tmp_path, origins, allowed):
    key = add_key(tmp_path / "keys", "anna")
    ring = KeyRing(tmp_path / "keys", "secret")
    app = create_app(text_service(FakeService()), cors_origins=origins, keys=ring)
    asking = {"Origin": "https://a.org", "Access-Control-Request-Method": "POST"}
    asking["Access-Control-Request-Headers"] = "authorization,content-type,x-stainless-os"
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as http:
        asked = await http.options("/v1/chat/completions", headers=asking)
        headers = {"Origin": "https://a.org", "Authorization": f"Bearer {key}"}
        answer = await http.post(
            "/v1/chat/completions", json={"model": "tiny", "messages": user("Hi")}, headers=headers
        )
        refused = await http.post("/v1/chat/completions", json={}, headers={"Origin": "https://a.org"})
        stranger = await http.get("/v1/models", headers=headers | {"Origin": "https://b.org"})
    assert (asked.status_code == 200) == (allowed is not None)
    assert (answer.status_code, refused.status_code, stranger.status_code) == (200, 401, 200)
    for response in (asked, answer, refused):
        assert response.headers.get("access-control-allow-origin") == allowed
    assert stranger.headers.get("access-control-allow-origin") == ("*" if allowed == "*" else None)
