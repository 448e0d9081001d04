"""Requests to an API, made from its OpenAPI document: schemathesis makes some, and others are made of those.

Schemathesis makes some tens of requests a second, which is too few for a campaign. So its requests are a corpus, right
and wrong ones, and each of them is sent as it is, and then often again with something changed: a value anywhere in its
body replaced, left out, repeated or moved from another body; its bytes cut, flipped or repeated; a header or the path
changed. No request is made twice. Whether a request is one that the document allows is asked of the document
(``is_allowed``), and so whether an answer is (``what_is_wrong``). Doesn't send anything.
"""

from __future__ import annotations

import json
import random
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

import jsonschema_rs
import requests
from schemathesis.generation import GenerationMode

from helix_df.runtime.api.reconnect import NAME_HEADER
from helix_df.runtime.api.timeouts import MAX_TIMEOUT_S, TIMEOUT_HEADER
from tests.api.by_schema import with_each_case

Json = dict[str, Any]
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
MOST_BODY_BYTES = 200_000
RIGHT = 0.3
"""Share of further requests that are to be right ones: what is changed anywhere at random seldom is."""

STRANGE: Sequence[object] = (
    None, True, False, 0, -1, 1, 2, 128, 129, 1e308, -0.0, 0.5, 1.0, 2**31, 2**63, 2**64, 10**30, 1e-320,
    "", "a", "\x00", "\ud83d", "é😀", "x" * 5000, " ", "tiny", "stop", "1", [], [[]], {}, [None], ["a", 1], [0, 1, 2],
    [[1], [2]], {"a": {"b": {"c": [1, {"d": []}]}}}, {"role": "user", "content": "Hi"}, {"type": "text", "text": "a"},
)  # fmt: skip
"""Values that somebody may send for any field."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as it goes over the wire. ``operation`` is the document's, ``headers`` all but those of the wire."""

    operation: str
    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def over_the_wire(self, host: str) -> bytes:
        """Its bytes, on a connection that is kept."""
        lines = [f"{self.method} {self.path} HTTP/1.1", f"Host: {host}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if self.method != "GET" or self.body:
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + self.body


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes


# ------------------------------------------------------------------ those of schemathesis


def corpus(schema: Any, url: str, of_each: int, seed_number: int) -> list[Sent]:
    """``of_each`` requests of each operation and mode."""
    found: list[Sent] = []
    for one in schema.get_all_operations():
        operation = one.ok()
        for mode in MODES:
            if "requestBody" in operation.definition.raw or mode.is_positive:
                found += _made(operation, mode, of_each, seed_number, url)
    return found


def _made(operation: Any, mode: GenerationMode, examples: int, seed_number: int, url: str) -> Iterator[Sent]:
    cases: list[Any] = []
    with_each_case(operation, mode, examples, seed_number, cases.append)
    for case in cases:
        prepared = requests.Request(**case.as_transport_kwargs(base_url=url)).prepare()
        body: Any = prepared.body or b""
        raw = body.encode("utf-8", "replace") if isinstance(body, str) else bytes(body)
        own = ("content-length", "host", "connection", "accept-encoding", "transfer-encoding")
        sent = [(name, str(value)) for name, value in prepared.headers.items() if name.lower() not in own]
        if len(raw) <= MOST_BODY_BYTES and all(_fits(name, value) for name, value in sent):
            yield Sent(operation.label, str(prepared.method), prepared.path_url, tuple(sent), raw)


def _fits(name: str, value: str) -> bool:
    """Whether it can be sent as a header at all."""
    text = f"{name}{value}"
    return text.isprintable() and not any(ord(letter) > 255 for letter in text)


# ------------------------------------------------------------------ those that are made of them


@dataclass
class Requests:
    """Requests without end, none of them twice. ``secret`` is the job's; ``ids`` are of answers that there are."""

    document: Json
    found: Sequence[Sent]
    secret: str
    random: random.Random
    ids: deque[str] = field(default_factory=lambda: deque(maxlen=500))
    _seen: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._by_operation: dict[str, list[Sent]] = {}
        for one in self.found:
            self._by_operation.setdefault(one.operation, []).append(one)
        self._allowed = Allowed(self.document)
        bodies = [body for one in self.found if isinstance(body := _parsed(one.body), dict)]
        self._values = [value for body in bodies for value in _values(body)]
        self._bodies = {name: _bodies(of_it) for name, of_it in self._by_operation.items()}
        self._right = [one for one in self.found if one.operation.startswith("POST /v1") and self._is_right(one)]
        self._weights = [8 if name.startswith("POST /v1") else 1 for name in self._by_operation]

    def __iter__(self) -> Iterator[Sent]:
        for one in self.found:
            yield from self._new(one)
        while True:
            if self._right and self.random.random() < RIGHT:
                yield from self._new(self._another_right(self.random.choice(self._right)))
            (name,) = self.random.choices(list(self._by_operation), self._weights)
            yield from self._new(self._changed(self.random.choice(self._by_operation[name])))

    def _new(self, one: Sent) -> Iterator[Sent]:
        """That request, unless it was made before, or would end the job."""
        if one.operation == "POST /helix/control/stop" and self._allowed.is_allowed(one):
            one = replace(one, headers=tuple(pair for pair in one.headers if pair[0].lower() != "x-helix-secret"))
        key = hash(one)
        if key not in self._seen:
            self._seen.add(key)
            yield one

    def _is_right(self, one: Sent) -> bool:
        return self._allowed.is_allowed(one) and not any(name == TIMEOUT_HEADER for name, _ in one.headers)

    def _another_right(self, one: Sent) -> Sent:
        """One that the document allows, with other numbers and another text."""
        body, draw = _parsed(one.body), self.random
        body |= {
            "seed": draw.randrange(2**40),
            "max_tokens": draw.randrange(1, 40),
            "n": draw.choice((None, 1, 1, 2, 5)),
        }
        body |= {"stream": draw.random() < 0.4, "stream_options": None, "timeout": None}
        body |= {"temperature": round(2 * draw.random(), 3), "return_token_ids": draw.random() < 0.3}
        words = "".join(
            map(chr, (draw.choice((draw.randrange(32, 127), draw.randrange(0xA0, 0x800))) for _ in range(20)))
        )
        if "messages" in body:
            body["messages"] = [*body["messages"][:3], {"role": "user", "content": words}]
        else:
            body["prompt"] = draw.choice((words, [words, "a"], [draw.randrange(256) for _ in range(20)]))
        name = ((NAME_HEADER, f"name-{draw.getrandbits(60)}"),) if draw.random() < 0.2 else ()
        headers = (*_without(one.headers, NAME_HEADER.lower()), *name)
        return replace(one, headers=headers, body=json.dumps(body).encode())

    def _changed(self, one: Sent) -> Sent:
        for _ in range(self.random.choice((1, 1, 2, 4))):
            one = self._changed_once(one)
        return one

    def _changed_once(self, one: Sent) -> Sent:
        if one.method == "GET":
            return self._other_place(one)
        kind = self.random.random()
        if kind < 0.1:
            return replace(one, headers=self._other_headers(one.headers))
        if kind < 0.2:
            return replace(one, body=self._other_bytes(one.body))
        if "/control/" in one.path and kind < 0.5:
            return replace(one, headers=(*_without(one.headers, "x-helix-secret"), ("X-Helix-Secret", self.secret)))
        body = _parsed(one.body)
        if not isinstance(body, dict) or kind < 0.3:
            body = json.loads(json.dumps(self.random.choice(self._bodies[one.operation])))
        self._other_value(body, self.random.choice(self._bodies[one.operation]))
        return replace(one, body=json.dumps(body).encode("utf-8", "surrogatepass")[:MOST_BODY_BYTES])

    def _other_value(self, body: Json, other: Json) -> None:
        """Change something anywhere in a body."""
        at, key = self.random.choice(list(_places(body)) or [(body, "model")])
        match self.random.randrange(6):
            case 0:
                at[key] = self.random.choice(STRANGE)
            case 1:
                at[key] = self.random.choice(self._values)
            case 2 if isinstance(at, dict) or len(at) > 0:
                at.pop(key, None) if isinstance(at, dict) else at.pop()
            case 3 if isinstance(at, list):
                at.extend(at[:50])
            case 4 if other:
                name = self.random.choice(list(other))
                body[name] = other[name]
            case _:
                body[self.random.choice(["max_tokens", "n", "seed", "temperature", "stop", "stream"])] = (
                    self.random.choice([1, 2, 3, 7, True, 0.25, "a", None])
                )

    def _other_bytes(self, body: bytes) -> bytes:
        raw = bytearray(body or b"{}")
        at = self.random.randrange(len(raw))
        match self.random.randrange(4):
            case 0:
                del raw[at:]
            case 1:
                raw[at] ^= 1 << self.random.randrange(8)
            case 2:
                raw[at:at] = self.random.choice((b"[" * 2000, b'"', b"\\ud800", b"NaN", b"1e999", b"\x00", b"{", b"//"))
            case _:
                raw[at:at] = raw[at : at + 100]
        return bytes(raw)

    def _other_headers(self, headers: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        name, values = self.random.choice(
            [
                (TIMEOUT_HEADER, ("0.001", "-1", "1e3", "nan", "inf", "abc", "5", "0", "99999999")),
                ("X-Helix-Request-Id", ("a" * 129, "", "a b", "x/y", f"name-{self.random.random()}", "same")),
                ("Content-Type", ("text/plain", "application/json; charset=latin-1", "application/xml", "")),
                ("Authorization", ("Bearer x", "Basic eDp5", "")),
                ("Expect", ("100-continue",)),
                ("Accept", ("text/event-stream", "image/png")),
                ("X-Long", ("x" * 15_000,)),
            ]
        )
        return (*_without(headers, name.lower()), (name, self.random.choice(values)))

    def _other_place(self, one: Sent) -> Sent:
        """The path of something else, of an answer that there is, or of nothing."""
        words = "".join(self.random.choice("abcé%/?#. -\x00😀0") for _ in range(self.random.randrange(12)))
        place = quote(words, safe="%/?#" if self.random.random() < 0.3 else "")
        place = re.sub(r"[^\x21-\x7e]", "", place)
        if one.operation == "GET /helix/requests/{id}":
            if self.ids and self.random.random() < 0.7:
                place = self.random.choice(self.ids)
            cursor = self.random.choice(("0", "1", "5", "-", "3e", "0,0", "999999", "x", ",", "", "1,2,3"))
            headers = (*_without(one.headers, "last-event-id"), ("Last-Event-ID", cursor))
            return replace(one, path=f"/helix/requests/{place}", headers=headers)
        if one.operation == "GET /v1/models/{model}":
            return replace(one, path=f"/v1/models/{place}")
        return replace(one, path=f"{one.path.partition('?')[0]}?{place}={self.random.random()}")


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return None


def _no_json(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


def _bodies(of_it: Sequence[Sent]) -> list[Json]:
    return [body for one in of_it if isinstance(body := _parsed(one.body), dict)] or [{}]


def _without(headers: tuple[tuple[str, str], ...], name: str) -> tuple[tuple[str, str], ...]:
    return tuple(pair for pair in headers if pair[0].lower() != name)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a value with each of its keys; of long lists the first."""
    keys = list(value) if isinstance(value, dict) else range(min(len(value), 20)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _values(value: Any) -> Iterator[Any]:
    return (at[key] for at, key in _places(value))


# ------------------------------------------------------------------ what the document says


class Allowed:
    """What a document allows, of requests and of answers."""

    def __init__(self, document: Json) -> None:
        self._operations = {
            f"{method.upper()} {path}": operation
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
        }
        self._document = document
        self._validators: dict[str, Any] = {}

    def is_allowed(self, sent: Sent) -> bool:
        """Whether a request is one that the document allows; a body is none of its business where it has none."""
        if "requestBody" not in self._operations[sent.operation]:
            return True
        headers = {name.lower(): value for name, value in sent.headers}
        body = _parsed(sent.body)
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return False
        operation = self._operations[sent.operation]
        takes = {one["name"] for one in operation.get("parameters", ())}
        if TIMEOUT_HEADER in takes and not _is_timeout(headers.get(TIMEOUT_HEADER.lower())):
            return False
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        try:
            return body is not None and bool(self._validator(schema).is_valid(body))
        except (ValueError, UnicodeError, RecursionError):  # numbers or text that no JSON Schema has
            return False

    def what_is_wrong(self, sent: Sent, answer: Answer) -> str | None:
        """Why an answer isn't one that the document allows; ``None`` if it is."""
        if answer.status == 0:
            return "there was no answer"
        if answer.status >= 500 and answer.status not in (503, 504):
            return "the server failed"
        operation = self._operations[sent.operation]
        # A changed path may be of nothing at all, or of another operation.
        elsewhere = sent.method == "GET" and "{" in sent.operation
        declared = operation["responses"].get(str(answer.status))
        if declared is None:
            return None if elsewhere and answer.status in (400, 404, 405) else "the document hasn't this status"
        if (elsewhere and answer.status == 404) or (sent.method == "GET" and answer.status == 400):
            return None
        if sent.method == "POST" and answer.status < 300 and not self.is_allowed(sent):
            return "a request that the document doesn't allow was taken"
        missing = [name for name in declared.get("headers", {}) if name.lower() not in answer.headers]
        if missing:
            return f"{missing[0]} is missing"
        kind = answer.headers.get("content-type", "").partition(";")[0].strip()
        if kind not in declared["content"]:
            return None if elsewhere else f"the document hasn't answers of {kind}"
        return self._wrong_body(declared["content"][kind], kind, answer.body)

    def _wrong_body(self, declared: Json, kind: str, body: bytes) -> str | None:
        try:
            if kind == "application/json":
                self._validator(declared["schema"]).validate(json.loads(body))
            elif kind == "text/event-stream":
                self._check_events(declared["itemSchema"], body.decode())
        except (jsonschema_rs.ValidationError, ValueError, AssertionError) as error:
            return f"{type(error).__name__}: {error}"
        return None

    def _check_events(self, declared: Json, text: str) -> None:
        """Events are of the kinds that the document has; the last says that this is the end, unless it is an error."""
        data = declared["properties"]["data"]
        *events, nothing = text.split("\n\n")
        assert nothing == "", "an event is cut off"
        documents = [event.rpartition("\n")[2].removeprefix("data: ") for event in events]
        assert documents, "no event"
        if "anyOf" in data:  # the last event is no JSON
            if documents[-1] == "[DONE]":
                del documents[-1]
            else:
                assert "error" in json.loads(documents[-1]), "no end"
        schema = data["anyOf"][0]["contentSchema"] if "anyOf" in data else data["contentSchema"]
        for document in documents:
            self._validator(schema).validate(json.loads(document))

    def _validator(self, schema: Json) -> Any:
        key = json.dumps(schema, sort_keys=True)
        if key not in self._validators:
            whole = {**schema, "components": self._document["components"]}
            self._validators[key] = jsonschema_rs.validator_for(whole)
        return self._validators[key]


def _is_timeout(text: str | None) -> bool:
    if text is None:
        return True
    try:
        return 0 < float(text) <= MAX_TIMEOUT_S
    except ValueError:
        return False
