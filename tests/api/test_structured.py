"""A constraint that can't be is refused before anything runs, and the answer says where it is wrong."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from helix_df.errors import RequestError
from helix_df.runtime.constraints import MOST_CONSTRAINT_BYTES, Constraint

BAD = {
    "type": "object",
    "properties": {"a": {"type": "array", "items": {"anyOf": [{"type": "null"}, {"type": "foo"}]}}},
}


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"structured_outputs": {"regex": "(a"}}, "structured_outputs.regex", "unclosed group"),
        ({"structured_outputs": {"grammar": "start: nobody"}}, "structured_outputs.grammar", "unknown name"),
        ({"structured_outputs": {"json": BAD}}, "structured_outputs.json.properties.a.items.anyOf[1]", "foo"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json", "not valid JSON"),
        ({"structured_outputs": {"json": "[]"}}, "structured_outputs.json", "an object"),
        ({"structured_outputs": {"json": {"uniqueItems": True}}}, "structured_outputs.json", "uniqueItems"),
        ({"structured_outputs": {"json": {"$ref": "#/$defs/none"}}}, "structured_outputs.json", "does not exist"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "at least one"),
        ({"structured_outputs": {"choice": ["a"], "regex": "b"}}, "structured_outputs.choice", "outputs.regex"),
        ({"structured_outputs": {}}, "structured_outputs", "one of"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag", ""),
        ({"structured_outputs": {"regex": "a"}, "ignore_eos": True}, "ignore_eos", "structured_outputs.regex"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "needs it"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": BAD}}},
            "response_format.json_schema.schema.properties.a.items.anyOf[1]",
            "foo",
        ),
    ],
)  # fmt: skip
async def test_what_cannot_be_is_a_400_that_says_where(
    http: httpx.AsyncClient, body: dict[str, Any], param: str, words: str
) -> None:
    response = await http.post("/v1/completions", json={"model": "tiny", "prompt": "p"} | body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert words in response.json()["error"]["message"]


@pytest.mark.parametrize("text", ["é" * (MOST_CONSTRAINT_BYTES // 2 + 1), "\ud83d"])
def test_a_constraint_is_text_of_bounded_length(text: str) -> None:
    with pytest.raises(RequestError):
        Constraint.regex(text)
