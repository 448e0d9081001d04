from __future__ import annotations

import numpy as np
import pytest

from helix_df.errors import RequestError
from helix_df.runtime.sampling import SamplingParams
from helix_df.runtime.worker.sampler import log_probabilities, pick_greedily, sample, sampler_rows

VOCAB = 50
LOGITS = np.random.default_rng(0).normal(0, 2, VOCAB).astype(np.float32)
ORDER = np.argsort(-LOGITS)


def draw_many(params, count=2000, logits=LOGITS):
    rows = sampler_rows([params] * count, range(count), count)
    return np.asarray(sample(np.tile(logits, (count, 1)), rows))


def softmax(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(temperature):
    drawn = draw_many(SamplingParams(temperature=temperature), 20_000)
    frequencies = np.bincount(drawn, minlength=VOCAB) / len(drawn)
    np.testing.assert_allclose(frequencies, softmax(LOGITS / temperature), atol=0.012)


def test_temperature_zero_is_greedy():
    assert set(draw_many(SamplingParams())) == {ORDER[0]}
    assert int(pick_greedily(LOGITS[None])[0]) == ORDER[0]


@pytest.mark.parametrize("top_k", [1, 2, 7, VOCAB, 10 * VOCAB])
def test_top_k_keeps_the_best(top_k):
    drawn = set(draw_many(SamplingParams(temperature=100.0, top_k=top_k), 5000))
    assert drawn == set(ORDER[:top_k])


@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.7, 0.95])
def test_top_p_keeps_the_smallest_nucleus(top_p):
    logits = LOGITS / 4  # flat enough that every kept token comes up
    probabilities = np.sort(softmax(logits))[::-1]
    size = int(np.searchsorted(np.cumsum(probabilities), top_p)) + 1
    drawn = set(draw_many(SamplingParams(temperature=1.0, top_p=top_p), 20_000, logits))
    assert drawn == set(ORDER[:size])


def test_nucleus_is_taken_after_top_k():
    drawn = set(draw_many(SamplingParams(temperature=100.0, top_k=4, top_p=0.7), 5000))
    assert drawn == set(ORDER[:3])


def test_batching_changes_no_draw():
    params = [
        SamplingParams(temperature=1.0, seed=seed, top_p=top_p, top_k=top_k)
        for seed, top_p, top_k in [(1, 1.0, 0), (1, 0.9, 0), (2, 1.0, 5), (3, 0.5, 20)]
    ]
    positions = [5, 9, 5, 0]
    together = sample(np.tile(LOGITS, (8, 1)), sampler_rows(params, positions, 8))
    for row, (one, position) in enumerate(zip(params, positions, strict=True)):
        alone = sample(LOGITS[None], sampler_rows([one], [position], 1))
        assert int(alone[0]) == int(together[row])


def test_seeds_and_positions_matter():
    drawn = draw_many(SamplingParams(temperature=2.0, seed=1), 100)
    other = draw_many(SamplingParams(temperature=2.0, seed=2), 100)
    assert len(set(drawn)) > 5
    assert (drawn != other).any()


def test_log_probabilities():
    chosen, values, ids = log_probabilities(LOGITS[None], np.array([3], np.int32))
    expected = np.log(softmax(LOGITS))
    assert float(chosen[0]) == pytest.approx(expected[3], abs=1e-5)
    np.testing.assert_array_equal(ids[0], ORDER[:20])
    np.testing.assert_allclose(values[0], expected[ORDER[:20]], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("seed", -1),
        ("seed", 2**32),
        ("logprobs", 21),
    ],
)
def test_out_of_range(name, value):
    with pytest.raises(RequestError) as caught:
        SamplingParams(**{name: value})
    assert caught.value.param == name
