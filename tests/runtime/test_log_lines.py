"""Lines of logs: an object each, and the same in words."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from helix_df.runtime.log_lines import REQUEST_ID, TRACE_ID, JsonLines, fields, formatter, in_words, log_arguments


def line_of(message: str, *arguments: object, error: bool = False, extra: dict | None = None) -> str:
    info = None
    if error:
        try:
            raise ValueError("out of luck")
        except ValueError:
            info = sys.exc_info()
    record = logging.LogRecord("helix_df.daemon", logging.WARNING, "x.py", 1, message, arguments, info)
    record.created, record.msecs = 1_700_000_000.25, 250.0
    for name, value in (extra or {}).items():
        setattr(record, name, value)
    return JsonLines("worker", "a").format(record)


def test_an_object_says_when_who_and_what() -> None:
    line = line_of("refused %s\nand %d more", "é\u2028", 3, extra=fields(status=404))
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "WARNING",
        "role": "worker",
        "node": "a",
        "logger": "helix_df.daemon",
        "message": "refused é\u2028\nand 3 more",
        "status": 404,
    }


def test_an_object_names_the_request_and_the_trace_that_it_concerns() -> None:
    request, trace = REQUEST_ID.set("req_1"), TRACE_ID.set("4bf9")
    try:
        line = line_of("an answer broke off", error=True)
    finally:
        REQUEST_ID.reset(request)
        TRACE_ID.reset(trace)
    found = json.loads(line)
    assert (found["request_id"], found["trace_id"]) == ("req_1", "4bf9")
    assert found["exception"].endswith("ValueError: out of luck")
    words = in_words(line).splitlines()
    assert words[0] == (
        "2023-11-14 22:13:20,250 WARNING helix_df.daemon: an answer broke off [request_id req_1] [trace_id 4bf9]"
    )
    assert words[1].startswith("Traceback")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "2023-11-14 22:13:20,250 INFO helix_df.daemon: ready",
        "E0000 00:00 cuda_dnn.cc: a library says something",
        '{"time": "broken',
        '{"time": "2023"}',
        '{"time": "2023", "level": [], "logger": 1, "message": null}',
        '{"other": 1}',
    ],
)
def test_what_isnt_such_an_object_stays_as_it_is(line: str) -> None:
    assert in_words(line) == line


def test_text_is_what_nobody_has_to_ask_for() -> None:
    assert log_arguments("text") == []
    assert log_arguments("json") == ["--log-format", "json"]
    assert isinstance(formatter("json", "coordinator"), JsonLines)
    assert not isinstance(formatter("text", "coordinator"), JsonLines)
