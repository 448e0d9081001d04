"""One large body is refused at a bounded price, off the event loop, and everybody else is served meanwhile."""

from __future__ import annotations

import asyncio
import threading

import httpx
import pytest

from benchmarks.body_table import SHAPES
from helix_df.errors import RequestError
from helix_df.runtime.api import parsing
from helix_df.runtime.api.bodies import CompletionBody
from helix_df.runtime.api.parsing import MAX_PARTS, SMALL_BYTES, parse_body
from tests.api.fakes import FakeService


@pytest.mark.parametrize("name", SHAPES)
async def test_one_error_tells_and_others_are_served(server: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint, make = SHAPES[name]
    threads: list[int] = []

    def noting(kind: type[CompletionBody], raw: bytes) -> CompletionBody:
        threads.append(threading.get_ident())
        return parse_body(kind, raw)

    monkeypatch.setattr(parsing, "parse_body", noting)
    async with httpx.AsyncClient(base_url=server, timeout=120) as client:
        headers = {"Content-Type": "application/json"}
        answer = asyncio.create_task(client.post(f"/v1/{endpoint}", content=make(), headers=headers))
        healths = 0
        while not answer.done():
            assert (await client.get("/health")).status_code == 200
            healths += 1
        refusal = await answer
    assert refusal.status_code == 400, refusal.text
    assert len(refusal.content) < 1000, "an error repeats little of what was sent"
    assert healths > 0
    assert threading.get_ident() not in threads, "large bodies are parsed off the event loop"


def test_a_list_is_checked_up_to_its_first_mistake() -> None:
    wrong = b'{"model":"m","prompt":[' + b'"a",' * 1000 + b'1,"a",2,"a",3]}'
    with pytest.raises(RequestError, match="Invalid value for 'prompt'") as raised:
        parse_body(CompletionBody, wrong)
    assert raised.value.param == "prompt"
    assert raised.value.__cause__ is None, "pydantic's error holds all that was sent"


def test_parts_are_counted_outside_strings_alone() -> None:
    text = '[{\\"a\\":1}]\\\\' * MAX_PARTS
    body = parse_body(CompletionBody, f'{{"model":"m","prompt":"{text}"}}'.encode())
    assert isinstance(body.prompt, str)
    assert len(body.prompt) == MAX_PARTS * len('[{"a":1}]\\')
    with pytest.raises(RequestError, match=str(MAX_PARTS)):
        parse_body(CompletionBody, b'{"model":"m","prompt":[' + b"[]," * MAX_PARTS + b"[]]}")


@pytest.mark.parametrize("text", ['"\\ud83d"', '"a \\udc00 b"', '["\\ud83d"]', '"\\ud83d\\ud83d"'])
async def test_text_that_is_no_text_is_refused(http: httpx.AsyncClient, service: FakeService, text: str) -> None:
    raw = f'{{"model":"tiny","prompt":{text}}}'
    answer = await http.post("/v1/completions", content=raw, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_json"
    assert not service.requests


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
async def test_numbers_that_are_none_are_refused(http: httpx.AsyncClient, service: FakeService, number: str) -> None:
    raw = f'{{"model":"tiny","prompt":"a","temperature":{number}}}'
    answer = await http.post("/v1/completions", content=raw, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert not service.requests


async def test_small_bodies_are_parsed_where_they_are_read(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    def noting(kind: type[CompletionBody], raw: bytes) -> CompletionBody:
        assert len(raw) <= SMALL_BYTES
        threads.append(threading.get_ident())
        return parse_body(kind, raw)

    monkeypatch.setattr(parsing, "parse_body", noting)
    answer = await http.post("/v1/completions", json={"model": "tiny", "prompt": "a"})
    assert answer.status_code == 200
    assert threads == [threading.get_ident()]
