"""All schemas against a tiny random model, greedy and sampled, judged by ``jsonschema``: run as a module."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator

from tests.structured.job import Served, served
from tests.structured.schemas import SCHEMAS, Schema

WAYS: tuple[dict[str, Any], ...] = (
    {"temperature": 0},
    {"temperature": 1, "seed": 1},
    {"temperature": 1.5, "seed": 2, "top_p": 0.9},
)
AT_ONCE = 16
MAX_TOKENS = 480


async def wrong_answers(job: Served, schemas: Mapping[str, Schema]) -> list[str]:
    """What is wrong with the answers, each named by its schema; half are asked for as vLLM has it, half as OpenAI has.

    Greedy ones get no whitespace: this model would take all that it may.
    """
    turn = asyncio.Semaphore(AT_ONCE)

    async def ask(name: str, schema: Schema, way: dict[str, Any], openai: bool) -> str | None:
        async with turn:
            if openai:
                asked = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
                choice = await job.chat(response_format=asked, max_tokens=MAX_TOKENS, **way)
                text = choice["message"]["content"]
            else:
                asked = {"json": schema, "disable_any_whitespace": way["temperature"] == 0}
                choice = await job.complete(structured_outputs=asked, max_tokens=MAX_TOKENS, **way)
                text = choice["text"]
        wrong = what_is_wrong(text, choice["finish_reason"], schema)
        return wrong and f"{name} {way}: {wrong}: {text!r}"

    asked = [
        ask(name, schema, way, way["temperature"] > 0 and bool((number + at) % 2))
        for number, (name, schema) in enumerate(schemas.items())
        for at, way in enumerate(WAYS)
    ]
    return [wrong for wrong in await asyncio.gather(*asked) if wrong]


def what_is_wrong(text: str, finish: str, schema: Schema) -> str | None:
    """Why a text isn't a whole answer by a schema."""
    if finish != "stop":
        return f"it ends by {finish}"
    try:
        document = json.loads(text)
    except ValueError as error:
        return str(error)
    judge = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    return next((error.message for error in judge.iter_errors(document)), None)


async def _main() -> int:
    async with served() as job:
        wrong = await wrong_answers(job, SCHEMAS)
    print(f"{len(SCHEMAS)} schemas, {len(WAYS)} answers each: {len(wrong)} wrong", *wrong, sep="\n")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(min(1, asyncio.run(_main())))
