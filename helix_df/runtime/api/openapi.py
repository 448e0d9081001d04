"""The API as an OpenAPI document, and as a page that shows it.

Made from the models that check requests (``bodies``) and those that describe answers (``answer_bodies``). Owns what
the document adds to them: paths, statuses, and parameters that are taken only where they ask for nothing. The page
loads nothing from anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import models_json_schema

from helix_df.runtime.access import CONTROL, SECRET_HEADER
from helix_df.runtime.api.answer_bodies import (
    AnswerBody,
    ChatAnswer,
    ChatChunk,
    CompletionAnswer,
    CompletionChunk,
    DoneBody,
    ErrorBody,
    HealthBody,
    ModelBody,
    ModelsBody,
    PingBody,
    VersionBody,
    WholeAnswer,
)
from helix_df.runtime.api.bodies import Body, ChatBody, CompletionBody
from helix_df.runtime.api.chat_messages import message_schema
from helix_df.runtime.api.control import (
    ChangeBody,
    ControlBody,
    DrainBody,
    StopBody,
)
from helix_df.runtime.api.embeddings import EmbeddingsAnswer, EmbeddingsBody
from helix_df.runtime.api.messages_body import CountTokensBody, MessagesBody
from helix_df.runtime.api.openapi_messages import message_paths, message_schemas
from helix_df.runtime.api.openapi_parts import REF, REFUSALS, answer_of, errors, event_schema, look, ref
from helix_df.runtime.api.openapi_responses import response_paths, response_schemas
from helix_df.runtime.api.reconnect import NAME_HEADER, NAME_PATTERN
from helix_df.runtime.api.request_body import RequestBody
from helix_df.runtime.api.responses_body import ResponsesBody
from helix_df.runtime.api.timeouts import MAX_TIMEOUT_S, TIMEOUT_HEADER
from helix_df.runtime.api.tokenizing import DetokenizeAnswer, DetokenizeBody, TokenizeAnswer, TokenizeBody
from helix_df.runtime.overview import JobOverview
from helix_df.runtime.requests import JobStatus, NodeStatus

Json = dict[str, Any]

VERSION = "1"
"""Of the API, as in its paths."""

_ANSWERS = (
    ChatAnswer,
    ChatChunk,
    CompletionAnswer,
    CompletionChunk,
    DetokenizeAnswer,
    DoneBody,
    EmbeddingsAnswer,
    ErrorBody,
    HealthBody,
    ModelBody,
    ModelsBody,
    PingBody,
    TokenizeAnswer,
    VersionBody,
)
_BODIES: tuple[type[RequestBody], ...] = (
    CompletionBody,
    ChatBody,
    EmbeddingsBody,
    TokenizeBody,
    DetokenizeBody,
    MessagesBody,
    CountTokensBody,
    ResponsesBody,
)
_CONTROLS: Mapping[str, type[ControlBody]] = {"plan": ChangeBody, "drain": DrainBody, "stop": StopBody}
_WHAT_IS_DONE = {
    "plan": "Let another plan take over.",
    "drain": "Send a node no new requests.",
    "stop": "Take no new requests, and end once those that there are have ended.",
}
_NAME = {
    "name": NAME_HEADER,
    "in": "header",
    "description": "what the client calls its request, so that it can come back for the answer",
    "schema": {"type": "string", "pattern": f"^{NAME_PATTERN}$"},
}


def openapi_document(
    model_name: str, *, needs_key: bool = False, keeps_answers: bool = False, is_controlled: bool = False
) -> Json:
    """OpenAPI 3.1 of the API of a job.

    Args:
        model_name: the model that it serves.
        needs_key: whether requests have to bring a key.
        keeps_answers: whether clients can come back for the rest of theirs.
        is_controlled: whether who holds the job's secret can tell it something.
    """
    schemas = {**_answer_schemas(), **message_schemas(), **response_schemas(), **_status_schemas()}
    for kind in _BODIES:
        schemas[kind.__name__] = _body_schema(kind, model_name, schemas)
    document: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "helix-df",
            "version": VERSION,
            "description": "A job's API, as OpenAI's. A request may name a body field null: it is as if left out.",
        },
        "paths": _paths(needs_key, keeps_answers),
        "components": {"schemas": schemas},
    }
    schemes: Json = {}
    if needs_key:
        schemes["key"] = {"type": "http", "scheme": "bearer"}
        document["security"] = [{"key": []}]
    if is_controlled:
        schemes["secret"] = {"type": "apiKey", "in": "header", "name": SECRET_HEADER, "description": "the job's"}
        schemas |= {kind.__name__: kind.model_json_schema(ref_template=REF) for kind in _CONTROLS.values()}
        document["paths"] |= {f"{CONTROL}/{name}": _control(name, kind) for name, kind in _CONTROLS.items()}
    if schemes:
        document["components"]["securitySchemes"] = schemes
    return document


def _paths(needs_key: bool, keeps_answers: bool) -> Json:
    refused = {401: "the API key is missing or unknown"} if needs_key else {}
    generating = {**REFUSALS, **refused}
    names: list[Json] = []
    if keeps_answers:
        generating[409] = f"there is a request of the name in {NAME_HEADER}"
        names.append(_NAME)
    looking = {status: REFUSALS[status] for status in (408, 431, 500, 503)} | refused
    model = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "/v1/completions": _generation(
            "completions", "Continue a text.", CompletionBody, CompletionAnswer, CompletionChunk, generating, names
        ),
        "/v1/chat/completions": _generation(
            "chat", "The next message of a chat.", ChatBody, ChatAnswer, ChatChunk, generating, names
        ),
        **({"/helix/requests/{id}": {"get": _kept_answer(refused)}} if keeps_answers else {}),
        "/v1/models": look("models", "The models that are served.", ModelsBody.__name__, looking),
        "/v1/models/{model}": look(
            "model", "One of them.", ModelBody.__name__, looking | {404: REFUSALS[404]}, [model]
        ),
        "/v1/embeddings": _simple("embeddings", "Texts as vectors.", EmbeddingsBody, EmbeddingsAnswer, generating),
        "/tokenize": _simple("tokenize", "The tokens of a prompt.", TokenizeBody, TokenizeAnswer, generating),
        "/detokenize": _simple("detokenize", "The text of tokens.", DetokenizeBody, DetokenizeAnswer, generating),
        **message_paths(generating),
        **response_paths(generating),
        "/version": look("version", "The version of helix-df.", VersionBody.__name__, looking),
        "/ping": {
            **look("ping", "Whether the server is there.", PingBody.__name__, looking),
            "post": look("post_ping", "The same.", PingBody.__name__, looking)["get"],
        },
        "/health": {
            "get": {
                "operationId": "health",
                "summary": "Whether a full path through the layers is up.",
                "security": [],
                "responses": errors({408: REFUSALS[408], 431: REFUSALS[431], 500: REFUSALS[500]})
                | {
                    "200": answer_of("it is", HealthBody.__name__),
                    # Whoever finds no connection free is told so in an error.
                    "503": answer_of(REFUSALS[503], HealthBody.__name__, ErrorBody.__name__),
                },
            }
        },
        "/helix/status": look("status", "A job and each of its nodes.", JobStatus.__name__, looking),
        "/helix/overview": look(
            "overview", "A job on one screen: nodes that are alike as one row.", JobOverview.__name__, looking
        ),
        "/metrics": {
            "get": {
                "operationId": "metrics",
                "summary": "Metrics for Prometheus.",
                "responses": {
                    "200": {"description": "they are", "content": {"text/plain": {"schema": {"type": "string"}}}},
                    **errors(looking),
                },
            }
        },
    }


def _generation(
    name: str,
    summary: str,
    body: type[Body],
    answer: type[WholeAnswer],
    chunk: type[WholeAnswer],
    refusals: Mapping[int, str],
    parameters: list[Json],
) -> Json:
    done = answer_of("the answer; with `stream` as server-sent events", answer.__name__)
    done["content"]["text/event-stream"] = {"itemSchema": event_schema(chunk)}
    wait: Json = {"name": TIMEOUT_HEADER, "in": "header", "description": "as `timeout` of the body; the lesser counts"}
    wait["schema"] = {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_TIMEOUT_S}
    return {
        "post": {
            "operationId": name,
            "summary": summary,
            "parameters": [wait, *parameters],
            "requestBody": {"required": True, "content": {"application/json": {"schema": ref(body.__name__)}}},
            "responses": {"200": done, **errors(refusals)},
        }
    }


def _simple(
    name: str, summary: str, body: type[RequestBody], answer: type[AnswerBody], refusals: Mapping[int, str]
) -> Json:
    """A path where a body is answered with one document."""
    return {
        "post": {
            "operationId": name,
            "summary": summary,
            "requestBody": {"required": True, "content": {"application/json": {"schema": ref(body.__name__)}}},
            "responses": {"200": answer_of("it", answer.__name__), **errors(refusals)},
        }
    }


def _kept_answer(refused: Mapping[int, str]) -> Json:
    """An answer that a client comes back for, in the form in which it was asked for."""
    done = answer_of("what follows on what the client has", CompletionAnswer.__name__, ChatAnswer.__name__)
    done["content"]["text/event-stream"] = {"itemSchema": event_schema(CompletionChunk, ChatChunk)}
    text: Json = {"schema": {"type": "string"}}
    place = "the `id` of the last event that the client has; all of the answer without one"
    refusals = {status: REFUSALS[status] for status in (408, 429, 431, 500, 503, 504)} | dict(refused)
    refusals |= {
        400: "this is no place in the answer, or its request was wrong",
        404: "there is no such request, or it is over for too long",
        409: "another client is connected to it",
        410: "its client left before it was finished",
    }
    return {
        "operationId": "answer",
        "summary": "The rest of an answer.",
        "parameters": [
            {
                "name": "id",
                "in": "path",
                "required": True,
                "description": f"the `id` of the answer, or its request's {NAME_HEADER}",
                **text,
            },
            {"name": "Last-Event-ID", "in": "header", "description": place, **text},
            {"name": "after", "in": "query", "description": f"the same: {place}", **text},
        ],
        "responses": {"200": done, **errors(refusals)},
    }


def _control(name: str, body: type[ControlBody]) -> Json:
    refusals = {status: REFUSALS[status] for status in (408, 413, 415, 431, 500, 503)} | {
        400: "a field is wrong, or the body isn't JSON",
        403: "this isn't the job's secret",
        409: "it can't be done; the message says why",
    }
    return {
        "post": {
            "operationId": name,
            "summary": _WHAT_IS_DONE[name],
            "security": [{"secret": []}],
            "requestBody": {"required": True, "content": {"application/json": {"schema": ref(body.__name__)}}},
            "responses": {"202": answer_of("it is done, or on its way", DoneBody.__name__), **errors(refusals)},
        }
    }


def _answer_schemas() -> Json:
    _, found = models_json_schema([(kind, "serialization") for kind in _ANSWERS], ref_template=REF)
    schemas: Json = found["$defs"]
    return schemas


def _status_schemas() -> Json:
    schema = TypeAdapter(JobStatus).json_schema(mode="serialization", ref_template=REF)
    schemas: Json = schema.pop("$defs")
    del schemas[NodeStatus.__name__]["properties"]["join_command"]  # it holds the job's secret
    seen = TypeAdapter(JobOverview).json_schema(mode="serialization", ref_template=REF)
    rows: Json = seen.pop("$defs")
    return {**schemas, **rows, JobStatus.__name__: schema, JobOverview.__name__: seen}


def _body_schema(kind: type[RequestBody], model_name: str, schemas: Json) -> Json:
    """The schema of a body as it is taken: with nulls, and with parameters that change nothing."""
    schema = kind.model_json_schema(ref_template=REF)
    schemas.update(schema.pop("$defs", {}))
    required = schema.setdefault("required", [])
    fields: Json = {
        name: field if name in required else _nullable(field) for name, field in schema["properties"].items()
    }
    fields["model"] = {**fields["model"], "enum": [model_name, *([] if "model" in required else [None])]}
    if "messages" in fields and kind in (ChatBody, TokenizeBody):
        fields["messages"] = {**fields["messages"], "items": message_schema()}
    for name in sorted(kind.harmless):
        fields[name] = {"description": "accepted, since it can't change an answer here"}
    for name, nothing in sorted(kind.unsupported.items()):
        fields[name] = {"enum": [None, *nothing], "description": "not supported: taken only where it asks for nothing"}
    others: Json = {"type": "null"}  # whatever else a client names, as long as it asks for nothing
    return {**schema, "properties": fields, "additionalProperties": others}


def _nullable(field: Json) -> Json:
    if {"type": "null"} in field.get("anyOf", ()):
        return field
    told = {key: value for key, value in field.items() if key in ("title", "description", "default")}
    return {"anyOf": [{key: value for key, value in field.items() if key not in told}, {"type": "null"}], **told}


def docs_page(document: Json) -> str:
    """The document as a page for people: HTML without scripts, styles or pictures from elsewhere."""
    info = document["info"]
    return "\n".join(
        [
            "<!doctype html><html lang=en><meta charset=utf-8><title>helix-df API</title>",
            "<style>body{font:15px sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
            "td,th{text-align:left;vertical-align:top;padding:.2em 1em .2em 0}</style>",
            f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info['description'])}</p>",
            "<p>As a document for programs: <a href=openapi.json>openapi.json</a></p>",
            *_operations(document),
            "</html>",
        ]
    )


def _operations(document: Json) -> Iterator[str]:
    schemas = document["components"]["schemas"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"<h2>{method.upper()} {escape(path)}</h2><p>{escape(operation['summary'])}</p>"
            if "requestBody" in operation:
                reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
                yield _table(_field_rows(schemas[reference.rpartition("/")[2]]))
            yield _table((status, answer["description"]) for status, answer in operation["responses"].items())


def _field_rows(schema: Json) -> Iterator[tuple[str, str]]:
    for name, field in schema["properties"].items():
        is_needed = " (required)" if name in schema["required"] else ""
        yield name, field.get("description", "") + is_needed


def _table(rows: Iterator[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><td><code>{escape(name)}</code><td>{escape(words)}" for name, words in rows)
    return f"<table>{cells}</table>"
