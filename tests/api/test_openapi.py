"""What ``/openapi.json`` promises is kept: requests made from it are answered as it says, none with a 500."""

from __future__ import annotations

from collections import Counter

import httpx
import jsonschema_rs
import pytest
import schemathesis
from jsonschema_rs import ValidationError
from starlette.routing import Route

from helix_df.errors import DeploymentError
from helix_df.plan.plan import Plan
from helix_df.runtime.access import SECRET_HEADER
from helix_df.runtime.api.app import create_app
from helix_df.runtime.api.openapi import openapi_document
from helix_df.runtime.api.reconnect import NAME_HEADER, Reconnects
from tests.api.by_schema import MODES, check_events, operations, run_cases
from tests.api.fakes import FakeService, text_service, user
from tests.api.test_reconnect import FakeKeeper

POSITIVE, NEGATIVE = MODES


class FakeControl:
    """A job whose nodes can't be drained."""

    secret = "a" * 32

    def begin_change(self, plan: Plan) -> None:
        """See ``Control``."""

    def drain(self, node: str, *, undo: bool = False) -> None:
        """See ``Control``."""
        raise DeploymentError(f"there is no node {node}")

    def wind_down(self, grace_s: float) -> None:
        """See ``Control``."""


SERVICE = FakeService()
KEEPER = FakeKeeper(SERVICE)
APP = create_app(
    text_service(SERVICE),
    created=1_700_000_000,
    reconnects=Reconnects(text_service(SERVICE), KEEPER),
    control=FakeControl(),
)
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", APP)
OPERATIONS = {operation.label: operation for operation in operations(SCHEMA)}


@pytest.mark.parametrize("label", OPERATIONS)
def test_requests_made_from_the_document_are_answered_as_it_says(label: str) -> None:
    count = 40 if label.startswith("POST") else 5
    statuses: Counter[int] = Counter()
    for mode in MODES:
        if mode.is_negative and "requestBody" not in OPERATIONS[label].definition.raw:
            continue  # nothing can be wrong with a request without fields
        statuses += run_cases(OPERATIONS[label], mode, count, 1, lambda case: case.call())
    assert statuses
    if label.startswith("POST /v1"):
        assert statuses[200], statuses
        assert statuses[400], statuses


@pytest.mark.parametrize(("label", "status"), [("plan", 409), ("drain", 409), ("stop", 202)])
def test_a_job_is_told_something_as_the_document_says(label: str, status: int) -> None:
    operation, headers = OPERATIONS[f"POST /helix/control/{label}"], {SECRET_HEADER: FakeControl.secret}
    right, wrong = (
        run_cases(operation, mode, 30, 1, lambda case: case.call(headers=headers)) for mode in (POSITIVE, NEGATIVE)
    )
    assert set(right) <= {status, 400}, right  # 400: JSON whose numbers are too large
    assert right[status], right
    assert wrong[400], wrong


@pytest.mark.parametrize("asked", [{}, {"stream": True}])
async def test_an_answer_that_a_client_comes_back_for_is_as_the_document_says(asked: dict) -> None:
    document = openapi_document("tiny", keeps_answers=True)
    transport = httpx.ASGITransport(app=APP)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        name = f"kept-{len(asked)}"
        headers = {NAME_HEADER: name}
        body = {"model": "tiny", "messages": user("Hi")} | asked
        first = await client.post("/v1/chat/completions", json=body, headers=headers)
        assert first.status_code == 200
        await KEEPER.write(0)
        again = await client.get(f"/helix/requests/{name}")
        twice = await client.post("/v1/chat/completions", json=body, headers=headers)
    assert twice.status_code == 409
    for answer in (first, again):
        if asked:
            check_events(answer.text, document, "ChatChunk")
        else:
            schema = {"$ref": "#/components/schemas/ChatAnswer", "components": document["components"]}
            jsonschema_rs.validator_for(schema).validate(answer.json())


def test_every_path_is_in_the_document() -> None:
    routes = [route for route in APP.routes if isinstance(route, Route) and route.include_in_schema]
    paths = {route.path.replace(":path", "") for route in routes}
    document = openapi_document("tiny", keeps_answers=True, is_controlled=True)
    assert set(document["paths"]) == paths - {"/openapi.json", "/docs"}


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
