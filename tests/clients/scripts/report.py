"""What the scripts of clients share: a line of JSON for each thing that was tried. Runs in their environments."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

URL, MODEL = sys.argv[1:3]
"""The API's root, and the model's name."""


@contextmanager
def trying(what: str) -> Iterator[None]:
    """Say whether the block could be done."""
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        words = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        print(json.dumps({"what": what, "why": words}), flush=True)
    else:
        print(json.dumps({"what": what, "why": ""}), flush=True)


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
ANSWER = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "population": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["city", "population"],
    "additionalProperties": False,
}
ASKED = [{"role": "user", "content": "What is the capital of France?"}]
