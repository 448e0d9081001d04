"""Constrained answers over HTTP: they keep to what was asked, survive everything, and what can't be is told."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from helix_df.layers import LayerRange
from helix_df.runtime.constraints import Constraint
from helix_df.runtime.requests import GenerationRequest
from helix_df.runtime.sampling import SamplingParams
from tests.runtime.tiny import answer
from tests.structured.job import Served, served

EOS = 257
DATE = Constraint.regex("(19|20)[0-9]{2}-(0[1-9]|1[0-2])-[a-f]{8}(!{1,5})?")


@pytest.fixture
async def job() -> AsyncIterator[Served]:
    async with served() as running:
        yield running


def asked(name: str, **changes: Any) -> GenerationRequest:
    sampling = SamplingParams(temperature=1.0, seed=5, logprobs=0, constraint=DATE)
    return replace(GenerationRequest(name, (1, 2, 3), 40, sampling, frozenset({EOS})), **changes)


async def test_every_kind_of_constraint(job: Served) -> None:
    for seed in range(3):
        regex = await job.complete(structured_outputs={"regex": "[a-c]{3}(é|日)"}, seed=seed, max_tokens=20)
        assert re.fullmatch("[a-c]{3}(é|日)", regex["text"])
        choice = await job.complete(
            structured_outputs={"choice": ["yes", 'n"o', "vielleicht ä"]}, seed=seed, max_tokens=20
        )
        assert choice["text"] in ("yes", 'n"o', "vielleicht ä")
        lark = 'start: "(" start ")" | "x"'
        nested = await job.complete(structured_outputs={"grammar": lark}, seed=seed, temperature=2, max_tokens=400)
        assert re.fullmatch(r"\(*x\)*", nested["text"])
        assert nested["text"].count("(") == nested["text"].count(")")
        assert {it["finish_reason"] for it in (regex, choice, nested)} == {"stop"}
    as_object = await job.chat(response_format={"type": "json_object"}, seed=1, max_tokens=3)
    assert as_object["message"]["content"].startswith("{")
    assert as_object["finish_reason"] == "length"
    as_text = await job.chat(response_format={"type": "text"}, max_tokens=3, temperature=0)
    assert as_text == await job.chat(max_tokens=3, temperature=0)


async def test_a_streamed_answer_is_the_same(job: Served) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 9}}, "required": ["a"]}
    body = {
        "model": "tiny",
        "prompt": "p",
        "seed": 3,
        "max_tokens": 200,
        "structured_outputs": {"json": schema | {"additionalProperties": False}},
    }
    whole = (await job.http.post("/v1/completions", json=body)).json()["choices"][0]["text"]
    streamed = (await job.http.post("/v1/completions", json=body | {"stream": True})).text
    events = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    assert "".join(event["choices"][0]["text"] for event in events) == whole
    assert set(json.loads(whole)) == {"a"}


async def test_the_same_seed_says_the_same_alone_in_a_crowd_and_from_anywhere(job: Served) -> None:
    whole = await answer(job.coordinator, asked("alone"))
    tokens = [event.token for event in whole if event.token is not None]
    assert re.fullmatch(DATE.text, bytes(tokens).decode())
    assert whole[-1].finish == "stop"
    crowd = [asked(f"r{n}", sampling=replace(asked("").sampling, seed=5 if n % 3 else 100 + n)) for n in range(12)]
    plain = [asked(f"p{n}", sampling=SamplingParams(temperature=0.5, seed=n)) for n in range(4)]
    found, _ = await asyncio.gather(
        asyncio.gather(*(answer(job.coordinator, one) for one in crowd)),
        asyncio.gather(*(answer(job.coordinator, one) for one in plain)),
    )
    assert all([event.token for event in found[n]] == [event.token for event in whole] for n in range(12) if n % 3)
    # What a coordinator after this one, or another worker, begins with: the tokens so far.
    for count in (1, 7, len(tokens)):
        rest = await answer(job.coordinator, asked(f"from-{count}", so_far=tuple(tokens[:count])))
        assert [event.token for event in rest] == [event.token for event in whole[count:]]


async def test_another_attempt_changes_no_constrained_answer() -> None:
    placement = {"a": LayerRange(0, 2), "b": LayerRange(0, 2), "c": LayerRange(2, 4), "d": LayerRange(2, 4)}
    async with served(placement) as job:
        whole = [event.token for event in await answer(job.coordinator, asked("whole"))]
        stream = job.coordinator.submit(asked("broken"))
        found = [(await anext(stream)).token for _ in range(4)]
        (request,) = job.coordinator._state.requests_state.requests.values()
        before = request.key
        job.coordinator._perform(job.coordinator._machines.on_lost_step(before, time.monotonic()))
        assert request.key != before
        found += [event.token async for event in stream]
        assert found == whole


async def test_tokens_that_no_constraint_allows_end_the_request_in_words(job: Served) -> None:
    response = asked("never", so_far=tuple(b"not a date"))
    with pytest.raises(Exception, match="allows no next token"):
        await answer(job.coordinator, response)
    assert await answer(job.coordinator, asked("after"))
