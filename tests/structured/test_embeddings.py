"""Texts as vectors over HTTP: whichever way they are asked for, in whatever company."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator

import numpy as np
import pytest

from tests.structured.job import Served, served

IDS = [[(7 * at + number) % 256 for at in range(length)] for number, length in enumerate((1, 2, 65, 300))]


@pytest.fixture
async def job() -> AsyncIterator[Served]:
    async with served() as running:
        yield running


async def embed(job: Served, **body: object) -> dict:
    response = await job.http.post("/v1/embeddings", json={"model": "tiny"} | body)
    assert response.status_code == 200, response.text
    return response.json()


def vectors(answer: dict) -> np.ndarray:
    assert [one["index"] for one in answer["data"]] == list(range(len(answer["data"])))
    return np.array([one["embedding"] for one in answer["data"]], np.float32)


@pytest.mark.parametrize("pooling", ["mean", "last"])
async def test_a_vector_is_the_same_alone_and_among_others(job: Served, pooling: str) -> None:
    together = await embed(job, input=IDS, pooling=pooling)
    alone = [await embed(job, input=one, pooling=pooling) for one in IDS]
    found = vectors(together)
    np.testing.assert_allclose(found, [vectors(one)[0] for one in alone], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-5)
    assert pooling in together["made_of"]
    assert together["usage"] == {"prompt_tokens": 368, "total_tokens": 368}
    packed = await embed(job, input=IDS, pooling=pooling, encoding_format="base64")
    read = [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in packed["data"]]
    np.testing.assert_allclose(read, found, atol=1e-5)


async def test_the_mean_is_that_of_the_last_states_of_all_beginnings(job: Served) -> None:
    """The last state of a text's beginning is the state of that token: causal attention sees nothing behind it."""
    prompt = IDS[2][:6]
    beginnings = [prompt[: stop + 1] for stop in range(len(prompt))]
    last = vectors(await embed(job, input=beginnings, pooling="last", normalize=False))
    mean = vectors(await embed(job, input=[prompt], normalize=False))
    np.testing.assert_allclose(mean[0], last.mean(0), atol=1e-4)


async def test_answers_and_vectors_go_side_by_side(job: Served) -> None:
    """Prompts whose KV cache is kept are computed whole where they are summed up."""
    said = await job.complete(prompt=IDS[3], max_tokens=8, temperature=0, return_token_ids=True)
    before = vectors(await embed(job, input=IDS[3]))
    both = await asyncio.gather(
        job.complete(prompt=IDS[3], max_tokens=8, temperature=0, return_token_ids=True), embed(job, input=IDS[3])
    )
    assert both[0]["token_ids"] == said["token_ids"]
    np.testing.assert_allclose(vectors(both[1]), before, atol=1e-5)


REFUSED: list[tuple[dict[str, object], str]] = [
    ({"input": ""}, "input"),
    ({"input": []}, "input"),
    ({"input": [[]]}, "input"),
    ({"input": ["a", ""]}, "input"),
    ({"input": [[1, 320]]}, "input"),
    ({"input": [5] * 600}, "input"),
    ({"input": ["a"] * 2049}, "input"),
    ({"input": 5}, "input"),
    ({"input": "a", "dimensions": 8}, "dimensions"),
    ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
    ({"input": "a", "pooling": "max"}, "pooling"),
    ({"input": "a", "model": "other"}, "model"),
    ({}, "input"),
]


async def test_what_cannot_be_a_vector_is_refused_by_the_name_of_its_field(job: Served) -> None:
    for body, param in REFUSED:
        response = await job.http.post("/v1/embeddings", json={"model": "tiny"} | body)
        assert response.status_code in (400, 404), body
        assert response.json()["error"]["param"] == param, body
