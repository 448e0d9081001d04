"""Penalties, biases, min-p and what must not come, against plain numpy over the same logits.

Exact where nothing is drawn, chi-square where something is.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from helix_df.layers import LayerRange
from helix_df.models.tokenizer import Tokenizer
from helix_df.runtime.constraints import Constraint
from helix_df.runtime.requests import History
from helix_df.runtime.sampling import SamplingParams, Shaping
from helix_df.runtime.worker.drawing import Draws, draw
from helix_df.runtime.worker.sampler import edit, sampler_rows
from helix_df.runtime.worker.steps import Step
from tests.api.fakes import EOS, byte_tokenizer

VOCAB = 60
LOGITS = np.random.default_rng(5).normal(0, 2, VOCAB).astype(np.float32)
TOKENS = st.integers(0, VOCAB - 1)
NUMBERS = st.floats(-2, 2, width=32)
SHAPINGS = st.builds(
    Shaping,
    presence_penalty=NUMBERS,
    frequency_penalty=NUMBERS,
    repetition_penalty=st.floats(0.25, 3, width=32),
    logit_bias=st.dictionaries(TOKENS, st.floats(-100, 100, width=32), max_size=5).map(lambda it: tuple(it.items())),
    min_tokens=st.integers(0, 6),
    held_back=st.lists(TOKENS, max_size=3, unique=True).map(tuple),
    bad_words=st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple), max_size=3).map(tuple),
)


def reference(logits: np.ndarray, shaping: Shaping, prompt: list[int], answer: list[int]) -> np.ndarray:
    """One row, as the definitions say: bias, what must not come, repetition, frequency and presence."""
    found = logits.astype(np.float32).copy()
    for token, bias in shaping.logit_bias:
        found[token] += np.float32(bias)
    for *before, last in shaping.bad_words:
        if answer[max(0, len(answer) - len(before)) :] == before:
            found[last] = -np.inf
    if len(answer) < shaping.min_tokens:
        found[list(shaping.held_back)] = -np.inf
    for token in {*prompt, *answer}:
        factor = np.float32(shaping.repetition_penalty)
        found[token] = found[token] / factor if found[token] > 0 else found[token] * factor
    for token, count in Counter(answer).items():
        # One number is taken off: rounding twice would differ.
        penalty = np.float32(shaping.frequency_penalty) * np.float32(count) + np.float32(shaping.presence_penalty)
        found[token] -= penalty
    return found


def step(shaping: Shaping | None, tokens: list[int], prompt: int, name: str = "r", **params) -> Step:
    sampling = SamplingParams(shaping=shaping, **params)
    history = History(tuple(tokens), prompt)
    last = np.array(tokens[-1:])
    return Step(name, LayerRange(0, 4), len(tokens) - 1, last, None, sampling, sampling.constraint, history)


def adjusted(draws: Draws, steps: list[Step], logits: np.ndarray) -> np.ndarray:
    edits = draws.adjust(steps, len(logits)).edits
    return logits if edits is None else np.asarray(edit(logits, edits))


@given(
    shaping=SHAPINGS,
    prompt=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    answer=st.lists(st.integers(0, 6), max_size=8),
    known=st.integers(0, 8),
)
def test_edited_logits_are_those_of_the_definitions(shaping, prompt, answer, known) -> None:
    """Whether a worker has drawn all of the answer itself, or was told of its beginning."""
    draws, known = Draws(VOCAB, None), min(known, len(answer))
    told = step(shaping, prompt + answer[:known], len(prompt))
    logits = np.stack([LOGITS, -LOGITS])
    adjusted(draws, [told], logits)
    for token in answer[known:]:
        draws.drawn({"r": token})
    now = replace(told, position=len(prompt) + len(answer) - 1)
    plain = step(None, [1], 1, "plain")
    found = adjusted(draws, [now, plain], logits)
    np.testing.assert_array_equal(found[0], reference(LOGITS, shaping, prompt, answer))
    np.testing.assert_array_equal(found[1], -LOGITS)


def test_many_tokens_at_once_and_other_shapes() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 3, (3, 5000)).astype(np.float32)
    shaping = Shaping(presence_penalty=0.5, frequency_penalty=0.25, repetition_penalty=1.5)
    tokens = rng.integers(0, 5000, 3000).tolist()
    found = adjusted(Draws(5000, None), [step(shaping, tokens, 2000)], logits)
    np.testing.assert_array_equal(found[0], reference(logits[0], shaping, tokens[:2000], tokens[2000:]))
    np.testing.assert_array_equal(found[1:], logits[1:])


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()


def likely(probabilities: np.ndarray, min_p: float) -> np.ndarray:
    kept = np.where(probabilities >= min_p * probabilities.max(), probabilities, 0)
    return kept / kept.sum()


@pytest.mark.parametrize(
    ("shaping", "temperature"),
    [
        (Shaping(min_p=0.05), 1.0),
        (Shaping(min_p=0.3), 2.0),
        (Shaping(presence_penalty=1.5), 1.0),
        (Shaping(frequency_penalty=-0.75), 0.8),
        (Shaping(repetition_penalty=1.7), 1.3),
        (Shaping(logit_bias=((3, 2.5), (7, -4.0), (11, -100.0))), 1.0),
        (Shaping(bad_words=((5, 6), (9,)), min_tokens=9, held_back=(1, 2)), 1.5),
        (Shaping(0.02, 0.5, 0.25, 1.2, ((3, 3.0),)), 1.1),
    ],
)
def test_draws_follow_the_shaped_distribution(shaping: Shaping, temperature: float) -> None:
    prompt, answer, count = [1, 2, 3], [3, 4, 4, 5], 4000
    expected = reference(LOGITS, shaping, prompt, answer)
    expected = likely(softmax(expected / temperature), shaping.min_p)
    draws = Draws(VOCAB, None)
    steps = [step(shaping, prompt + answer, 3, str(at), temperature=temperature, seed=at) for at in range(count)]
    rows = sampler_rows([one.sampling for one in steps], range(count), count)
    found = np.asarray(draw(np.tile(LOGITS, (count, 1)), rows, draws.adjust(steps, count)))
    seen = np.bincount(found, minlength=VOCAB)
    assert not seen[expected == 0].any()
    order = np.argsort(-expected)
    often = order[expected[order] * count >= 8]
    rest = np.setdiff1d(order, often)
    observed = np.append(seen[often], seen[rest].sum())
    wanted = np.append(expected[often], expected[rest].sum()) * count
    kept = wanted > 0
    assert chisquare(observed[kept], wanted[kept] * observed.sum() / wanted[kept].sum()).pvalue > 1e-3


def test_greedy_takes_the_best_of_what_is_left() -> None:
    best = int(np.argmax(LOGITS))
    draws = Draws(VOCAB, None)
    steps = [step(Shaping(bad_words=((best,),)), [0], 1, "a"), step(Shaping(min_p=1.0), [0], 1, "b")]
    rows = sampler_rows([one.sampling for one in steps], [1, 1], 4)
    logits = np.tile(LOGITS, (4, 1))
    found = np.asarray(draw(logits, rows, draws.adjust(steps, 4)))
    assert found.tolist() == [int(np.argsort(-LOGITS)[1]), best, best, best]
    logits[0, 3] = np.nan
    assert np.asarray(draw(logits, rows, draws.adjust(steps, 4)))[0] == -1


def test_an_answer_that_is_whole_ends_though_it_should_be_longer() -> None:
    tokenizer: Tokenizer = byte_tokenizer()
    draws = Draws(258, lambda: tokenizer)
    shaping = Shaping(min_tokens=5, held_back=(EOS,), bad_words=((ord("a"),),))
    asked = step(shaping, [1, ord("b")], 1, constraint=Constraint.regex("b"))
    free = step(replace(shaping, min_tokens=9), [1, ord("b")], 1, "free", constraint=Constraint.regex("b[ac]*"))
    logits = np.zeros((2, 258), np.float32)
    for one in (asked, free):
        draws.begin(one)
    rows = sampler_rows([one.sampling for one in (asked, free)], [2, 2], 2)
    found = np.asarray(draw(logits, rows, draws.adjust([asked, free], 2)))
    assert found.tolist() == [EOS, ord("c")]
