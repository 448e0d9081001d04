"""Requests that schemathesis makes from ``/openapi.json``, and what it and the schema of events say of the answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema_rs
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from helix_df.runtime.api.openapi_messages import EVENTS
from helix_df.runtime.api.openapi_responses import ResponseEvent

CHECKS: list[Any] = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
CHUNKS = {"POST /v1/completions": "CompletionChunk", "POST /v1/chat/completions": "ChatChunk"}
NAMED_EVENTS = {
    "POST /v1/messages": [kind.__name__ for kind in EVENTS],
    "POST /v1/responses": [ResponseEvent.__name__],
}
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)


def operations(schema: Any) -> Iterator[Any]:
    """Every operation that the document has."""
    for found in schema.get_all_operations():
        yield found.ok()


def check_answer(case: Any, response: Any, document: dict[str, Any]) -> None:
    """An answer that the schema allows, event by event if it is a stream."""
    # A request may ask for less time than any answer takes, or come while something is full.
    assert response.status_code < 500 or response.status_code in (503, 504), (response.status_code, response.text)
    case.validate_response(response, checks=CHECKS)
    if response.headers.get("content-type", [""])[0].startswith("text/event-stream"):
        if case.operation.label in CHUNKS:
            check_events(response.text, document, CHUNKS[case.operation.label])
        else:
            check_named_events(response.text, document, NAMED_EVENTS[case.operation.label])


def check_events(text: str, document: dict[str, Any], chunk: str) -> None:
    """All events but the last are chunks; the last says that this is the end."""
    validator = jsonschema_rs.validator_for(
        {"$ref": f"#/components/schemas/{chunk}", "components": document["components"]}
    )
    *events, last, nothing = text.split("\n\n")
    assert nothing == "", nothing
    # Schemathesis itself stops reading a stream after some events.
    if last != "data: [DONE]":
        events.append(last)
    assert events
    for event in events:
        _place, _, data = event.rpartition("\n")  # answers that are kept say where each event is
        validator.validate(json.loads(data.removeprefix("data: ")))


def check_named_events(text: str, document: dict[str, Any], kinds: list[str]) -> None:
    """All events are of one of these kinds, and have its name."""
    schema = {"anyOf": [{"$ref": f"#/components/schemas/{kind}"} for kind in kinds]}
    validator = jsonschema_rs.validator_for({**schema, "components": document["components"]})
    *events, rest = text.split("\n\n")
    assert events
    # Schemathesis itself stops reading a stream after some events.
    for event in [*events, *([rest] if rest else [])]:
        name, data = event.split("\n")
        told = json.loads(data.removeprefix("data: "))
        assert name == f"event: {told['type']}"
        validator.validate(told)


def run_cases(
    operation: Any, mode: GenerationMode, examples: int, seed_number: int, send: Callable[[Any], Any]
) -> Counter[int]:
    """Send that many requests made for an operation, and check their answers; how many of each status came."""
    statuses: Counter[int] = Counter()
    document = operation.schema.raw_schema

    def run(case: Any) -> None:
        response = send(case)
        check_answer(case, response, document)
        statuses[response.status_code] += 1

    with_each_case(operation, mode, examples, seed_number, run)
    return statuses


def with_each_case(
    operation: Any, mode: GenerationMode, examples: int, seed_number: int, act: Callable[[Any], object]
) -> None:
    """Do something with that many requests made for an operation."""

    @seed(seed_number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        act(case)

    run()
