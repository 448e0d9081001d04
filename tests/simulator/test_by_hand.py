"""Simulations small enough to be worked out on paper."""

from __future__ import annotations

import numpy as np
import pytest

from helix_df.simulator import Options, simulate
from tests.simulator.small import chain, stage, trace

PLAIN = Options(seconds=1000, warmup_s=0, prefill_chunk=None, max_prefill_tokens=None, message_bytes=0)


def test_one_request_on_one_node():
    """Ten tokens a second a layer of ten: a prompt of 5 takes 0.5 s, each of the 3 further tokens 0.1 s."""
    outcome = simulate(chain(stage("a", 0, 4, tokens_per_s=10)), trace((1.0, 5, 4)), PLAIN)
    requests = outcome.requests
    assert requests.first_token_s[0] == pytest.approx(1.5, abs=1e-6)
    assert requests.finished_s[0] == pytest.approx(1.8, abs=1e-6)
    assert requests.generated_tokens.tolist() == [4]
    assert outcome.gaps_s == pytest.approx([0.1] * 3, abs=1e-5)
    assert outcome.decode_tokens == 4
    assert outcome.prompt_tokens == 5
    assert outcome.nodes[0].utilisation * 1000 == pytest.approx(0.8)


def test_links_add_their_latency_and_transfer_time():
    """Two hops of 0.2 s at 10 bytes/s, one byte a token: a 5-token prompt takes 0.5 s over a link, an output 0.1 s."""
    nodes = [stage("a", 0, 2, tokens_per_s=10), stage("b", 2, 4, tokens_per_s=10)]
    outcome = simulate(chain(*nodes, latency_s=0.2, bytes_per_s=10), trace((0.0, 5, 2)), PLAIN)
    prompt = (0.5 + 0.2) + 0.5 + (0.5 + 0.2) + 0.5 + (0.1 + 0.2)
    token = (0.1 + 0.2) + 0.1 + (0.1 + 0.2) + 0.1 + (0.1 + 0.2)
    assert outcome.requests.first_token_s[0] == pytest.approx(prompt)
    assert outcome.requests.finished_s[0] == pytest.approx(prompt + token)


def test_a_prompt_in_pieces_overlaps_its_stages():
    nodes = [stage("a", 0, 2, tokens_per_s=10), stage("b", 2, 4, tokens_per_s=10)]
    whole = simulate(chain(*nodes), trace((0.0, 40, 1)), PLAIN)
    pieces = simulate(
        chain(*nodes), trace((0.0, 40, 1)), Options(seconds=1000, warmup_s=0, prefill_chunk=10, max_prefill_tokens=10)
    )
    assert whole.requests.first_token_s[0] == pytest.approx(8.0, abs=1e-6)
    assert pieces.requests.first_token_s[0] == pytest.approx(5.0, abs=1e-5)


def test_a_request_that_fits_nowhere_is_rejected_and_others_are_not():
    outcome = simulate(chain(stage("a", 0, 4, kv_tokens=50)), trace((0.0, 60, 5), (0.0, 20, 5)), PLAIN)
    assert outcome.requests.rejected.tolist() == [True, False]
    assert np.isfinite(outcome.requests.finished_s).tolist() == [False, True]


def test_requests_wait_for_room_in_the_cache():
    """Each takes 30 of 50 tokens of cache, so they run one after the other."""
    outcome = simulate(chain(stage("a", 0, 4, kv_tokens=50)), trace((0.0, 20, 10), (0.0, 20, 10)), PLAIN)
    requests = outcome.requests
    assert requests.admitted_s[1] == pytest.approx(requests.finished_s[0])
    assert outcome.nodes[0].kv_peak <= 1.0


def test_nothing_is_left_in_the_cache_at_the_end():
    outcome = simulate(chain(stage("a", 0, 2), stage("b", 2, 4)), trace(*((0.1 * i, 9, 7) for i in range(20))), PLAIN)
    assert outcome.in_flight == outcome.waiting == 0
    assert outcome.series.kv[:, -1].tolist() == [0.0, 0.0]
    assert outcome.requests.generated_tokens.sum() == 140
