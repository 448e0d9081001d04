"""What is neither text nor a number in a body is a 400; a body over the limit is a 413, whether or not it says so."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx
import pytest

from helix_df.errors import RequestError
from helix_df.runtime.api import parsing
from helix_df.runtime.api.app import create_app
from helix_df.runtime.api.bodies import CompletionBody
from helix_df.runtime.api.generation import TextRequest
from helix_df.runtime.api.prompts import Chat, Prompt
from tests.api.fakes import FakeService, text_service

HEADERS = {"Content-Type": "application/json"}


def test_brackets_in_text_are_no_parts():
    text = "{[:" * 100_000 + '"\\'
    raw = json.dumps({"model": "m", "prompt": text}).encode()
    assert parsing.parse_body(CompletionBody, raw).prompt == text


@pytest.mark.parametrize("text", ["a" * 4_000_000, "1" * 4_000_000, "é" * 1_000_000])
def test_a_text_that_can_only_be_too_long_is_refused_without_tokenizing_it(text, monkeypatch):
    service = text_service(FakeService())
    monkeypatch.setattr("helix_df.models.tokenizer.ByteCodec.encode", None)
    with pytest.raises(RequestError, match="at least"):
        service.prepare(TextRequest(text), service.limits())


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_over_the_limit_is_refused_whether_or_not_it_says_so(declared):
    app = create_app(text_service(FakeService()), max_body_bytes=1000)

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100

    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        content = b"x" * 2000 if declared else parts()
        response = await http.post("/v1/completions", content=content, headers=HEADERS)
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", b'{"model": "tiny", "prompt": "\\ud83d"}'),
        ("/v1/completions", b'{"model": "tiny", "prompt": ["ok", "a\\udc00b"]}'),
        ("/v1/completions", b'{"model": "tiny", "prompt": "p", "stop": "\\ud83d"}'),
        ("/v1/completions", b'{"model": "\\ud83d", "prompt": "p"}'),
        ("/v1/completions", b'{"model": "tiny", "prompt": "\xed\xa0\xbd"}'),
        ("/v1/completions", b'{"model": "tiny", "prompt": "\xff"}'),
        ("/v1/chat/completions", b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud83d"}]}'),
        ("/v1/completions", b'{"model": "tiny", "prompt": "p", "temperature": NaN}'),
        ("/v1/completions", b'{"model": "tiny", "prompt": "p", "temperature": 1e999}'),
        ("/v1/completions", b'{"model": "tiny", "prompt": "p", "top_p": -Infinity}'),
    ],
)
async def test_what_is_neither_text_nor_number_is_a_400(path, body):
    transport = httpx.ASGITransport(app=create_app(text_service(FakeService())))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        response = await http.post(path, content=body, headers=HEADERS)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_both_halves_of_a_surrogate_pair_are_a_character():
    service = FakeService()
    transport = httpx.ASGITransport(app=create_app(text_service(service)))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        body = b'{"model": "tiny", "prompt": "\\ud83d\\ude00"}'
        assert (await http.post("/v1/completions", content=body, headers=HEADERS)).status_code == 200
    assert bytes(service.requests[0].prompt).decode() == "😀"


def test_a_library_users_surrogate_is_refused_too():
    text = text_service(FakeService())
    prompts: tuple[Prompt, ...] = ("\ud83d", Chat(({"role": "user", "content": "\udc00"},)))
    for prompt in prompts:
        with pytest.raises(RequestError, match="surrogate"):
            text.prepare(TextRequest(prompt), text.limits())
