"""Steps with drafts give what steps without give: in every kind of cache, of weights and of draws, on every stage."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from helix_df.layers import LayerRange
from helix_df.models.weights import load_shard
from helix_df.profiles.read_geometry import read_geometry
from helix_df.runtime.constraints import Constraint
from helix_df.runtime.requests import History
from helix_df.runtime.sampling import SamplingParams, Shaping
from helix_df.runtime.worker.engine import Engine
from helix_df.runtime.worker.shapes import ASKED_DRAFTED
from helix_df.runtime.worker.steps import Step, StepResult
from helix_df.spec.source import ModelSource
from tests.api.fakes import byte_tokenizer
from tests.oracle.family_checkpoints import write_family

TINY = ModelSource("random", "tiny")
PROMPT = tuple(range(3, 40))
COUNT = 24
SAMPLED = SamplingParams(temperature=1.0, top_p=0.9, seed=3, logprobs=2)
SHAPED = Shaping(frequency_penalty=0.7, repetition_penalty=1.3, bad_words=((7, 8), (9,)), min_tokens=4, held_back=(1,))
DRAWS = {
    "greedy": SamplingParams(),
    "sampled": SAMPLED,
    "shaped": replace(SAMPLED, shaping=SHAPED),
    "likely": SamplingParams(temperature=1.3, seed=5, shaping=Shaping(min_p=0.05)),
    "constrained": SamplingParams(temperature=1.0, seed=9, constraint=Constraint.regex("[a-z ]{3,60}")),
}


def stages(source: ModelSource, cut: int = 2, **options: Any) -> list[Engine]:
    """Engines over two stretches of a model's layers."""
    windows, kept = options.pop("windows", ()), options.pop("kept", None)
    geometry = read_geometry(source)
    if windows:
        geometry = replace(geometry, attention=replace(geometry.attention, windows=windows))
    last = geometry.num_layers
    sizes: dict[str, Any] = {"num_pages": 80, "max_batch": 4, "max_context": 128, "max_prefill": 64, "page_tokens": 4}
    return [
        Engine(
            load_shard(source, geometry, layers, seed=1, kept=kept),
            tokenizer=byte_tokenizer,
            **{**sizes, **options},
        )
        for layers in (LayerRange(0, cut), LayerRange(cut, last))
    ]


@functools.cache
def tiny() -> list[Engine]:
    return stages(TINY, pages_at_once=4, drafts=7)


def step(name: str, engine: Engine, position: int, inputs: np.ndarray, drafts: Sequence[int], **draws: Any) -> Step:
    first, last = engine.layers.start == 0, engine.layers.stop == engine.geometry.num_layers
    given: dict[str, Any] = {"tokens": inputs} if first else {"hidden": inputs}
    return Step(name, engine.layers, position, **given, drafts=tuple(drafts), **(draws if last else {}))


def run(engines: list[Engine], asked: dict[str, tuple[int, list[int], list[int]]], sampling: dict[str, SamplingParams]):
    """A step of each request through all stages: by name its position, tokens and drafts."""
    inputs = {name: np.array([*tokens, *drafts], np.int32) for name, (_, tokens, drafts) in asked.items()}
    drafts = {name: list(drafts) for name, (_, _, drafts) in asked.items()}
    results: list[StepResult] = []
    for engine in engines:
        steps = [
            step(
                name,
                engine,
                position,
                inputs[name],
                drafts[name],
                sampling=sampling[name],
                constraint=sampling[name].constraint,
                history=History(PROMPT, len(PROMPT)),
            )
            for name, (position, _, _) in asked.items()
        ]
        results = list(engine.run(steps))
        for result in results:
            assert result.fault is None
            if result.hidden is not None:
                inputs[result.request] = result.hidden
                drafts[result.request] = drafts[result.request][: len(result.hidden) - 1]
    return {result.request: result for result in results}


def generate(
    engines: list[Engine],
    sampling: dict[str, SamplingParams],
    known: dict[str, list[int]] | None = None,
    most: int = 0,
) -> tuple[dict[str, list[int]], dict[str, list[float]], int]:
    """Answers of requests that decode together, log-probabilities, and how many rounds it took.

    With ``known`` answers, those of their tokens are drafted, every fourth of them wrong.
    """
    tokens: dict[str, list[int]] = {name: [] for name in sampling}
    chosen: dict[str, list[float]] = {name: [] for name in sampling}
    rounds = 0
    asked = {name: (0, list(PROMPT), list[int]()) for name in sampling}
    while asked:
        rounds += 1
        for name, result in run(engines, asked, sampling).items():
            drawn = [(result.token, result.logprobs), *((one.token, one.logprobs) for one in result.more)]
            tokens[name] += [token for token, _ in drawn if token is not None]
            chosen[name] += [logprobs.chosen for _, logprobs in drawn if logprobs is not None]
        asked = {}
        for name, so_far in tokens.items():
            if len(so_far) < COUNT:
                room = known is not None and COUNT - len(so_far) > most
                right = known[name][len(so_far) :][:most] if known is not None and room else []
                drafts = [it ^ ((len(so_far) + at) % 4 == 3) for at, it in enumerate(right)]
                asked[name] = (len(PROMPT) + len(so_far) - 1, so_far[-1:], drafts)
    for engine in engines:
        for name in sampling:
            engine.release(name)
        assert engine.used_pages == 0
    return tokens, chosen, rounds


def compare(engines: list[Engine], sampling: dict[str, SamplingParams], most: int = 3) -> None:
    plain, likely, rounds = generate(engines, sampling)
    for _ in range(2):  # the second time all programs are there
        drafted, again, fewer = generate(engines, sampling, plain, most)
        assert drafted == plain
        for name in sampling:
            np.testing.assert_allclose(again[name], likely[name], atol=1e-3)
    assert fewer < rounds / 2


@pytest.mark.parametrize("kind", DRAWS)
def test_whatever_is_drawn_is_drawn_behind_drafts_too(kind: str) -> None:
    compare(tiny(), {"r": DRAWS[kind]})


def test_requests_of_all_kinds_are_verified_together() -> None:
    names = list(DRAWS)[:4]
    compare(tiny(), {name: DRAWS[name] for name in names})


@pytest.mark.parametrize(
    "options",
    [
        {"windows": (6, 0, 9, 9), "window": 9},
        {"windows": (9, 9, 9, 9), "window": 9, "pages_at_once": 4},
        {"kv": "int8"},
        {"kept": "int8"},
    ],
    ids=["some windows", "all windows", "8-bit cache", "8-bit weights"],
)
def test_every_cache_and_every_weights(options: dict[str, Any]) -> None:
    compare(stages(TINY, **options), {"r": DRAWS["greedy"], "s": DRAWS["sampled"]})


@pytest.mark.parametrize("family", ["deepseek-v3", "gpt-oss"])
def test_latents_experts_and_sinks(tmp_path, family: str) -> None:
    source = ModelSource("hf", str(write_family(tmp_path, family)))
    compare(stages(source, 1), {"r": DRAWS["greedy"], "s": DRAWS["sampled"]})


def test_steps_run_without_drafts_until_a_shape_is_asked_for_often() -> None:
    engines = stages(TINY, pages_at_once=4)
    sampling = {"r": SamplingParams()}
    asked = {"r": (0, list(PROMPT), [])}
    first = run(engines, asked, sampling)["r"].token
    for _ in range(ASKED_DRAFTED):
        result = run(engines, {"r": (len(PROMPT), [first], [1, 2])}, sampling)["r"]
        assert (result.more, len(engines[0]._verifies)) == ((), 0)
    run(engines, {"r": (len(PROMPT), [first], [1, 2])}, sampling)
    assert len(engines[0]._verifies) == 1


def test_few_drafts_beside_many_steps_without_run_apart() -> None:
    names = [f"r{number}" for number in range(8)]
    sampling = dict.fromkeys(names, SamplingParams())
    found = []
    for drafts in ([], [1, 2, 3, 4, 5, 6, 7]):
        engines = stages(TINY, num_pages=120, max_batch=8)
        starts = {name: (0, [*PROMPT, number], []) for number, name in enumerate(names)}
        first = {name: result.token for name, result in run(engines, starts, sampling).items()}
        steps = {name: (len(PROMPT) + 1, [first[name]], drafts if name == "r3" else []) for name in names}
        for _ in range(ASKED_DRAFTED + 1):  # at the same place each time: what was there is overwritten
            found.append({name: result.token for name, result in run(engines, steps, sampling).items()})
    assert all(one == found[0] for one in found)
    assert {(shape.rows, shape.tokens) for shape in engines[0]._verifies} == {(1, 8)}


def test_drafts_that_find_no_page_are_left_out() -> None:
    engine = Engine(load_shard(TINY, read_geometry(TINY), seed=1), num_pages=2, max_context=64, drafts=7)
    (first,) = engine.run(
        [Step("r", engine.layers, 0, tokens=np.array(PROMPT[:30], np.int32), sampling=DRAWS["greedy"])]
    )
    tokens = np.array([first.token, 1, 2, 3], np.int32)
    (result,) = engine.run([Step("r", engine.layers, 30, tokens=tokens, sampling=DRAWS["greedy"], drafts=(1, 2, 3))])
    assert (result.kv_full, result.computed, result.more) == (False, 1, ())


def test_shapes_with_drafts_are_warmed_up_last() -> None:
    sizes: dict[str, Any] = {"num_pages": 8, "max_batch": 2, "max_context": 64, "max_prefill": 16, "pages_at_once": 4}
    engine = Engine(load_shard(TINY, read_geometry(TINY), seed=1), drafts=3, **sizes)
    shapes = [one.shape for one in engine.warm_up()]
    assert shapes[-4:] == ["1 x 2 tokens", "1 x 4 tokens", "2 x 2 tokens", "2 x 4 tokens"]
    assert len(engine._verifies) == 4
    compiled = engine.compilations
    sampling = SamplingParams(temperature=1.0)
    engine.run([Step("r", engine.layers, 0, tokens=np.array(PROMPT[:8], np.int32), sampling=sampling)])
    engine.run([Step("r", engine.layers, 8, tokens=np.array([1, 2], np.int32), sampling=sampling, drafts=(2,))])
    assert engine.compilations == compiled
