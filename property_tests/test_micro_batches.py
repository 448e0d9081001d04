"""Pipelines are full and no fuller, and every request gets its turn."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_df.graph.flow import Hop
from helix_df.layers import LayerRange
from helix_df.micro_batches import entering_share, micro_batches
from helix_df.profiles.timing import LayerTiming
from helix_df.runtime.messages import Forward, Route
from helix_df.runtime.sampling import SamplingParams
from helix_df.runtime.worker_state import WorkerState
from helix_df.simulator import Options, simulate
from tests.simulator.small import chain, stage, trace

SECONDS = st.floats(1e-4, 10.0)


@given(st.lists(SECONDS, min_size=1, max_size=12))
def test_between_one_and_a_batch_a_stage(seconds):
    assert 1 <= micro_batches(seconds) <= len(seconds)


@given(SECONDS, st.integers(1, 12))
def test_equal_stages_get_a_batch_each_and_a_slow_one_gets_one(second, stages):
    assert micro_batches([second] * stages) == stages
    assert micro_batches([second * 100, *[second / 100] * (stages - 1)]) == 1


@given(st.lists(st.integers(1, 9), min_size=1, max_size=60))
def test_shares_cover_everybody_within_as_many_turns_as_batches(batches_of):
    entering = Counter(batches_of)
    share = entering_share(entering.items())
    assert 1 <= share <= len(batches_of)
    assert share * max(batches_of) >= len(batches_of)
    if len(entering) == 1:
        (batches,) = entering
        assert share == -(-len(batches_of) // batches)


@given(count=st.integers(1, 16), batches=st.integers(1, 5))
def test_a_first_stage_decodes_a_share_and_a_later_one_everything(count, batches):
    hops = (Hop("a", LayerRange(0, 2)), Hop("b", LayerRange(2, 4)))
    route = Route(hops, ("tcp://a", "tcp://b"), SamplingParams(), batches)
    token = np.zeros(1, np.int32)
    for node in ("a", "b"):
        state = WorkerState(node, "tcp://home", 4, max_batch=16, max_prefill_tokens=64)
        tensor = token if node == "a" else np.zeros((1, 4), np.float32)
        names = [f"r{index:02}/1" for index in range(count)]
        for name in names:
            state.on_forward(Forward(name, 0, True, route, tensor))
        while not state.idle:
            state.next_batch()
        for name in names:
            state.on_forward(Forward(name, 1, True, None, tensor))
        turns = []
        while not state.idle:
            turns.append([step.request for step in state.next_batch()])
        assert [name for turn in turns for name in turn] == names
        assert max(map(len, turns)) == (-(-count // batches) if node == "a" else count)


@pytest.mark.parametrize("stages", [2, 4])
def test_every_stage_of_a_simulated_pipeline_works(stages):
    """A decode step takes as long for eight as for one, so what counts is how many batches are under way."""
    flat = LayerTiming(prefill=((0.0, 0.0), (1.0, 0.01)), decode=((0.0, 0.0), (1.0, 0.1), (16.0, 0.1)))
    nodes = [stage(f"n{index}", index, index + 1, timing=flat) for index in range(stages)]
    asked = trace(*[(0.0, 1, 900)] * 8)
    together, shared = (
        simulate(chain(*nodes), asked, Options(seconds=60, warmup_s=10, micro_batches=micro)) for micro in (False, True)
    )
    assert min(node.utilisation for node in shared.nodes) >= 0.99
    assert shared.decode_tokens >= together.decode_tokens
    assert shared.decode_tokens == pytest.approx(8 / stages / 0.1 * 60, rel=0.02)
