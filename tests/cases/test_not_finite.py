"""Weights or activations that aren't finite: the request fails and says so, its node is flagged, no other is harmed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import httpx
import jax.numpy as jnp
import numpy as np
import pytest

from helix_df.errors import RequestError
from helix_df.layers import LayerRange
from helix_df.models.weights import load_shard
from helix_df.profiles.read_geometry import read_geometry
from helix_df.runtime.api.app import create_app
from helix_df.runtime.api.generation import TextService
from helix_df.runtime.coordinator.shell import Coordinator
from helix_df.runtime.sampling import SamplingParams
from helix_df.runtime.worker.engine import Engine
from helix_df.runtime.worker.sampler import NOT_FINITE, pick_greedily, sample, sampler_rows
from helix_df.runtime.worker.single_process import generate_in_process
from helix_df.runtime.worker.steps import Step
from helix_df.spec.source import parse_source
from tests.api.fakes import byte_tokenizer
from tests.cases.files import Tensors, checkpoint
from tests.oracle.serving import greedy, served


def broken(name: str, value: float, at: tuple[int, ...] = (0, 0)) -> Callable[[Tensors], None]:
    def edit(tensors: Tensors) -> None:
        tensors[name][at] = value

    return edit


def text_of(job: Coordinator) -> TextService:
    return TextService(job, byte_tokenizer(320), model_name="m", context=200)


@pytest.mark.parametrize(
    ("name", "value", "flagged"),
    [
        ("model.layers.1.mlp.down_proj.weight", np.nan, "second"),
        ("model.layers.2.mlp.down_proj.weight", np.nan, "second"),
        ("model.layers.2.self_attn.v_proj.weight", np.inf, "second"),
        ("model.layers.4.mlp.down_proj.weight", np.nan, "third"),
        ("model.layers.4.self_attn.k_proj.weight", np.inf, "third"),
        ("lm_head.weight", np.nan, "third"),
        ("lm_head.weight", -np.inf, "third"),
    ],
)
async def test_the_request_fails_and_the_node_is_flagged(tmp_path, name, value, flagged):
    source = checkpoint(tmp_path, edit=broken(name, value))
    async with served(str(source), 5) as job:
        with pytest.raises(RequestError, match=f"node {flagged} computed numbers that aren't finite") as caught:
            await greedy(job, "r", [7, 8, 9], 4)
        status = job.snapshot()
        with pytest.raises(RequestError, match="finite"):  # the job goes on answering, and says the same again
            await greedy(job, "again", [7] * 40, 4)
    assert (caught.value.status, caught.value.code) == (500, "not_finite")
    assert {node.name: node.not_finite for node in status.nodes if node.not_finite} == {flagged: 1}
    assert (status.failed, status.running, status.waiting) == (1, 0, 0)


@pytest.mark.parametrize("options", [{}, {"logprobs": 3}, {"stream": True}, {"stream": True, "logprobs": 3}])
async def test_over_http_it_is_a_500_with_a_code_and_no_bare_nan(tmp_path, options):
    source = checkpoint(tmp_path, edit=broken("model.layers.1.mlp.down_proj.weight", np.nan))
    async with served(str(source), 5) as job:
        transport = httpx.ASGITransport(app=create_app(text_of(job)))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            body = {"model": "m", "prompt": "abc", "max_tokens": 4, **options}
            response = await http.post("/v1/completions", json=body)
            metrics = (await http.get("/metrics")).text
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "not_finite"
    assert "NaN" not in response.text.replace("(NaN or infinity)", "")
    assert (
        sum(float(line.split()[-1]) for line in metrics.splitlines() if line.startswith("helix_node_not_finite")) == 1
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_token_is_drawn_from_logits_that_arent_finite(value):
    logits = np.zeros((2, 9), np.float32)
    logits[0, 3] = value
    warm = SamplingParams(temperature=1.0)
    for params in (SamplingParams(), replace(warm, top_p=0.5), replace(warm, top_k=2)):
        drawn = np.asarray(sample(jnp.asarray(logits), sampler_rows([params, params], [0, 0], 2)))
        assert drawn[0] == NOT_FINITE
        assert drawn[1] != NOT_FINITE
    assert np.asarray(pick_greedily(jnp.asarray(logits))).tolist() == [NOT_FINITE, 0]


@pytest.mark.parametrize("pages_at_once", [None, 2])
def test_who_gets_the_pages_next_is_not_harmed(pages_at_once):
    source = parse_source("random:tiny")
    geometry = read_geometry(source)

    def hidden(engine: Engine, request: str, value: float) -> np.ndarray | None:
        inputs = np.full((20, geometry.hidden_size), 0.1, np.float32)
        inputs[5] = value
        (result,) = engine.run([Step(request, LayerRange(1, 3), 0, hidden=inputs)])
        engine.release(request)
        return result.hidden if result.finite else None

    shard = load_shard(source, geometry, LayerRange(1, 3))
    engine = Engine(shard, num_pages=4, max_batch=2, max_context=64, pages_at_once=pages_at_once)
    clean = hidden(engine, "clean", 0.2)
    assert clean is not None
    assert hidden(engine, "broken", np.nan) is None
    assert hidden(engine, "infinite", np.inf) is None
    after = hidden(engine, "after", 0.2)
    assert after is not None
    np.testing.assert_array_equal(after, clean)


def test_a_broken_request_in_a_batch_fails_alone():
    source = parse_source("random:tiny")
    geometry = read_geometry(source)
    engine = Engine(load_shard(source, geometry, LayerRange(2, 4)), num_pages=8, max_batch=2, max_context=64)
    good = np.full((1, geometry.hidden_size), 0.1, np.float32)
    step = Step("good", LayerRange(2, 4), 0, hidden=good, sampling=SamplingParams())
    results = engine.run([step, replace(step, request="bad", hidden=good * np.nan)])
    assert [result.finite for result in results] == [True, False]
    assert results[0].token is not None
    assert results[1].token is None


def test_finite_models_answer_as_before():
    source = parse_source("random:tiny")
    engine = Engine(load_shard(source, read_geometry(source)), num_pages=8, max_batch=1, max_context=128)
    assert len(list(generate_in_process(engine, [1, 2, 3], 10))) == 10
