"""Pages that have left a window are freed, and nobody can tell: the same tokens as when all are kept."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helix_df.layers import LayerRange
from helix_df.models.weights import load_shard
from helix_df.profiles.kv_windows import kv_shape
from helix_df.profiles.read_geometry import read_geometry
from helix_df.runtime.sampling import SamplingParams
from helix_df.runtime.worker.engine import Engine
from helix_df.runtime.worker.steps import Step
from helix_df.spec.source import ModelSource

SOURCE, ALL = ModelSource("random", "tiny"), LayerRange(0, 4)
PAGE, PIECE, PAGES = 4, 16, 32
WANTED = SamplingParams(logprobs=1)

WINDOWS = {
    "in all layers": ((6, 6, 6, 6), None),
    "of two lengths": ((9, 9, 3, 3), 4),
    "in some layers": ((6, 0, 6, 0), 4),
    "in all but one": ((7, 7, 7, 0), None),
}


@functools.cache
def engines(kind):
    """One that frees pages, and one that keeps them."""
    windows, pages_at_once = WINDOWS[kind]
    geometry = read_geometry(SOURCE)
    geometry = replace(geometry, attention=replace(geometry.attention, windows=windows))
    shard = load_shard(SOURCE, geometry, ALL, seed=1)
    sizes: dict[str, Any] = {
        "num_pages": PAGES,
        "max_batch": 2,
        "max_context": 64,
        "max_prefill": PIECE,
        "page_tokens": PAGE,
    }
    made = [Engine(shard, pages_at_once=pages_at_once, window=window, **sizes) for window in (max(windows), 0)]
    shape = kv_shape(4, sum(map(bool, windows)), max(windows))
    return made[0], made[1], shape


class Pair:
    """Both engines, told the same."""

    def __init__(self, kind):
        self.freeing, self.keeping, self.shape = engines(kind)
        self.lengths: dict[str, int] = {}

    def run(self, tokens_of):
        steps = [
            Step(name, ALL, self.lengths.get(name, 0), tokens=np.array(tokens, np.int32), sampling=WANTED)
            for name, tokens in tokens_of.items()
        ]
        results = self.freeing.run(steps)
        for step, one, other in zip(steps, results, self.keeping.run(steps), strict=True):
            assert not one.kv_full
            assert one.token == other.token
            assert one.logprobs.chosen == pytest.approx(other.logprobs.chosen, abs=1e-4)
            self.lengths[step.request] = step.position + len(step.inputs)
        most = sum(-(-self.shape.held(length, PIECE, PAGE) // PAGE) for length in self.lengths.values())
        assert self.freeing.used_pages <= most + self.shape.layers * len(self.lengths)
        return {one.request: one.token for one in results}

    def compute(self, prompts, answer):
        """Prompts by the piece, then so many tokens of each."""
        left = {name: list(prompt) for name, prompt in prompts.items()}
        while any(left.values()):
            last = self.run({name: tokens[:PIECE] for name, tokens in left.items() if tokens})
            left = {name: tokens[PIECE:] for name, tokens in left.items()}
        for _ in range(answer):
            last = self.run({name: [last.get(name, 1)] for name in prompts})

    def keep(self, name):
        """It is over, and its whole pages stay; says how many tokens that are."""
        whole = self.lengths.pop(name) // PAGE * PAGE
        for engine in (self.freeing, self.keeping):
            engine.trim(name, whole)
        return whole

    def fork(self, parent, child, tokens):
        for engine in (self.freeing, self.keeping):
            engine.fork(parent, child, tokens)
        self.lengths[child] = tokens

    def forget(self, *names):
        for name in names:
            self.lengths.pop(name, None)
            for engine in (self.freeing, self.keeping):
                engine.release(name)


PROMPT = st.lists(st.integers(0, 255), min_size=1, max_size=36)


@pytest.mark.parametrize("kind", WINDOWS)
@settings(max_examples=8, deadline=None)
@given(first=PROMPT, second=PROMPT, more=PROMPT, answer=st.integers(1, 10))
def test_answers_stay_the_same(kind, first, second, more, answer):
    pair = Pair(kind)
    before = pair.freeing.programs.pool_pointers()
    pair.compute({"a": first, "b": second}, answer)
    whole = pair.keep("a")
    if whole:
        pair.fork("a", "c", whole)
        pair.forget("a")
        pair.compute({"c": more[: 62 - whole - 4]}, min(4, answer))
    pair.forget("a", "b", "c")
    assert pair.freeing.used_pages == pair.keeping.used_pages == 0
    assert pair.freeing.programs.pool_pointers() == before
