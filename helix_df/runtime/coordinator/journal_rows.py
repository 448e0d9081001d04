"""What the rows of a journal mean: requests and tokens as numbers and strings, each row with a checksum.

Owns the tables, packing and unpacking, and the proof that what is read back is what was written. Doesn't know threads
or when rows are written.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, replace
from typing import Any

import msgpack
import numpy as np

from helix_df.errors import RequestError
from helix_df.runtime.kept_answers import AcceptedAnswer, BrokenOff, KeptAnswer, KeptRequest
from helix_df.runtime.requests import FinishReason, GenerationRequest, ScoredToken, TokenEvent, TopLogprobs
from helix_df.runtime.sampling import plain_params, read_params

APPLICATION = 0x48445A6A
"""Of the files' headers, where sqlite keeps a number that tells whose a file is."""

VERSION = 2

SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE answers (
    id TEXT PRIMARY KEY, name TEXT, form TEXT NOT NULL, requests INTEGER NOT NULL, checksum INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX answers_by_name ON answers (name);
CREATE TABLE requests (
    id TEXT PRIMARY KEY, answer TEXT NOT NULL, number INTEGER NOT NULL, prompt BLOB NOT NULL, asked TEXT NOT NULL,
    checksum INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX requests_of ON requests (answer, number);
CREATE TABLE tokens (
    request TEXT NOT NULL, first INTEGER NOT NULL, tokens BLOB NOT NULL, logprobs BLOB, cached INTEGER NOT NULL,
    checksum INTEGER NOT NULL, PRIMARY KEY (request, first)
) WITHOUT ROWID;
CREATE TABLE endings (
    request TEXT PRIMARY KEY, answer TEXT NOT NULL, count INTEGER NOT NULL, ending TEXT NOT NULL, at REAL NOT NULL,
    checksum INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX endings_of ON endings (answer);
CREATE TABLE nodes (
    name TEXT PRIMARY KEY, address TEXT NOT NULL, life INTEGER NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL
) WITHOUT ROWID;
"""

NO_TOKEN = -1
"""In place of a token, where an answer ends without one."""

Row = tuple[Any, ...]


class UnprovedError(Exception):
    """Rows don't add up: nobody can tell what was written."""


def checksum(*values: object) -> int:
    """Of the values of a row."""
    return zlib.crc32(msgpack.packb(values, use_bin_type=True))


def _checked(row: Row) -> Row:
    """The row without its checksum, which is its last value."""
    if checksum(*row[:-1]) != row[-1]:
        raise UnprovedError("a row isn't what was written")
    return row[:-1]


# ---------------------------------------------------------------------- what was asked


def answer_row(answer: AcceptedAnswer) -> Row:
    """The row of an answer."""
    values = (answer.id, answer.name, answer.form, len(answer.requests))
    return (*values, checksum(*values))


def request_rows(answer: AcceptedAnswer) -> list[Row]:
    """A row for each of its requests."""
    rows = ((asked.id, answer.id, number, *_asked(asked)) for number, asked in enumerate(answer.requests))
    return [(*values, checksum(*values)) for values in rows]


def _asked(request: GenerationRequest) -> tuple[bytes, str]:
    fields = asdict(request) | {"sampling": plain_params(request.sampling)}
    prompt = np.array(fields.pop("prompt"), dtype="<i4").tobytes()
    del fields["so_far"]
    fields["stop_ids"] = sorted(request.stop_ids)
    return prompt, json.dumps(fields, sort_keys=True)


def _request(prompt: bytes, asked: str) -> GenerationRequest:
    fields = json.loads(asked)
    return GenerationRequest(
        **fields
        | {
            "prompt": tuple(np.frombuffer(prompt, dtype="<i4").tolist()),
            "sampling": read_params(fields["sampling"]),
            "stop_ids": frozenset(fields["stop_ids"]),
        }
    )


# ---------------------------------------------------------------------- what there is of it


def token_row(request: str, first: int, events: Sequence[TokenEvent]) -> Row:
    """Events of one request that follow one another, the first of which is its ``first`` one, counted from 0."""
    tokens = np.array([NO_TOKEN if one.token is None else one.token for one in events], dtype="<i4").tobytes()
    wants = any(one.logprobs is not None or one.prompt_scores is not None for one in events)
    scores = events[0].prompt_scores
    said = [[_packed_logprobs(one.logprobs) for one in events], None if scores is None else [*map(astuple, scores)]]
    packed = msgpack.packb(said) if wants else None
    values = (request, first, tokens, packed, sum(one.cached_tokens for one in events))
    return (*values, checksum(*values))


def _packed_logprobs(logprobs: TopLogprobs | None) -> object:
    return None if logprobs is None else [logprobs.chosen, [list(pair) for pair in logprobs.top]]


def _score(logprob: float, rank: int, top: Sequence[Sequence[Any]]) -> ScoredToken:
    return ScoredToken(logprob, rank, tuple((int(token), float(value)) for token, value in top))


def ending_row(request: str, answer: str, count: int, ending: FinishReason | BrokenOff, at_unix_s: float) -> Row:
    """How a request ended after ``count`` events, and when (Unix seconds)."""
    words = ending if isinstance(ending, str) else json.dumps(asdict(ending), sort_keys=True)
    values = (request, answer, count, words, at_unix_s)
    return (*values, checksum(*values))


def _events(rows: Sequence[Row]) -> list[TokenEvent]:
    events: list[TokenEvent] = []
    for row in rows:
        _, first, packed, logprobs, cached = _checked(row)
        tokens = np.frombuffer(packed, dtype="<i4").tolist()
        said, scored = ([None] * len(tokens), None) if logprobs is None else msgpack.unpackb(logprobs)
        scores = None if scored is None else tuple(_score(*one) for one in scored)
        if first != len(events) or not tokens or len(said) != len(tokens):
            raise UnprovedError("tokens are missing")
        for token, one in zip(tokens, said, strict=True):
            top = None if one is None else TopLogprobs(one[0], tuple((int(id_), float(p)) for id_, p in one[1]))
            events.append(TokenEvent(None if token == NO_TOKEN else token, None, top, cached, scores))
            cached, scores = 0, None
    return events


def _kept_request(asked: GenerationRequest, tokens: Sequence[Row], ending: Row | None) -> KeptRequest:
    events = _events(tokens)
    broken_off: BrokenOff | None = None
    if ending is not None:
        _, _, count, words, _ = _checked(ending)
        if count != len(events):
            raise UnprovedError("tokens are missing before the end")
        match words:
            case "stop" | "length":
                last = events[-1]
                events[-1] = replace(last, finish=words)
            case _:
                broken_off = BrokenOff(**json.loads(words))
    if any(event.token is None and event.finish is None for event in events):
        raise UnprovedError("an answer goes on after its end")
    return KeptRequest(asked, tuple(events), broken_off)


def read_answers(
    connection: sqlite3.Connection, id_or_name: str | None = None
) -> Iterator[KeptAnswer | tuple[str, Exception]]:
    """Every answer of a journal, or the one of this id or name.

    Answers whose rows don't add up come as their id with what is wrong.
    """
    wanted = "" if id_or_name is None else "WHERE id = ? OR name = ?"
    values = () if id_or_name is None else (id_or_name, id_or_name)
    for row in connection.execute(f"SELECT * FROM answers {wanted} ORDER BY id", values).fetchall():
        try:
            yield _kept_answer(connection, row)
        except (UnprovedError, ValueError, TypeError, KeyError, IndexError, RequestError) as error:
            yield str(row[0]), error


def _kept_answer(connection: sqlite3.Connection, row: Row) -> KeptAnswer:
    name, alias, form, count = _checked(row)
    requests = []
    rows = connection.execute("SELECT * FROM requests WHERE answer = ? ORDER BY number", (name,)).fetchall()
    for number, one in enumerate(rows):
        request, _, at, prompt, asked = _checked(one)
        if at != number:
            raise UnprovedError("a request is missing")
        tokens = connection.execute("SELECT * FROM tokens WHERE request = ? ORDER BY first", (request,)).fetchall()
        ending = connection.execute("SELECT * FROM endings WHERE request = ?", (request,)).fetchone()
        requests.append(_kept_request(_request(prompt, asked), tokens, ending))
    if len(requests) != count:
        raise UnprovedError("a request is missing")
    return KeptAnswer(name, form, tuple(requests), alias)
