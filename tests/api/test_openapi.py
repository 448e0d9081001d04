"""What ``/openapi.json`` promises is kept: requests made from it are answered as it says, none with a 500."""

from __future__ import annotations

from collections import Counter

import httpx
import pytest
import schemathesis
from jsonschema_rs import ValidationError
from starlette.routing import Route

from helix_df.runtime.api.app import create_app
from helix_df.runtime.api.openapi import openapi_document
from tests.api.by_schema import MODES, check_events, operations, run_cases
from tests.api.fakes import FakeService, text_service, user

APP = create_app(text_service(FakeService()), created=1_700_000_000)
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", APP)
OPERATIONS = {operation.label: operation for operation in operations(SCHEMA)}


@pytest.mark.parametrize("label", OPERATIONS)
def test_requests_made_from_the_document_are_answered_as_it_says(label: str) -> None:
    count = 40 if label.startswith("POST") else 5
    statuses: Counter[int] = Counter()
    for mode in MODES:
        if mode.is_negative and not label.startswith("POST"):
            continue  # nothing can be wrong with a request without fields
        statuses += run_cases(OPERATIONS[label], mode, count, 1, lambda case: case.call())
    assert statuses
    if label.startswith("POST"):
        assert statuses[200], statuses
        assert statuses[400], statuses


def test_every_path_is_in_the_document() -> None:
    paths = {route.path.replace(":path", "") for route in APP.routes if isinstance(route, Route)}
    assert set(openapi_document("tiny")["paths"]) == paths - {"/openapi.json", "/docs"}


def test_the_document_keeps_the_secret() -> None:
    assert "join_command" not in str(openapi_document("tiny"))


def test_a_stream_is_checked_to_its_last_event() -> None:
    with pytest.raises(ValidationError):
        check_events('data: {"id":"a"}\n\ndata: [DONE]\n\n', openapi_document("tiny"), "ChatChunk")


@pytest.mark.parametrize("asked", [{"logprobs": True, "top_logprobs": 2}, {"n": 2}, {"return_token_ids": True}])
async def test_streams_and_answers_have_what_the_document_says(http: httpx.AsyncClient, asked: dict) -> None:
    document = openapi_document("tiny")
    body = {"model": "tiny", "messages": user("Hi"), "stream": True, "stream_options": {"include_usage": True}}
    answer = await http.post("/v1/chat/completions", json=body | asked)
    check_events(answer.text, document, "ChatChunk")


async def test_the_page_for_people_loads_nothing(http: httpx.AsyncClient) -> None:
    page = (await http.get("/docs")).text
    assert "/v1/chat/completions" in page
    assert "max_completion_tokens" in page
    assert all(word not in page for word in ("src=", "http://", "https://", "<script", "@import"))
