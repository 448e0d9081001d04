"""Pipelines are full and no fuller, and every request gets its turn."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_df.graph.flow import Hop
from helix_df.layers import LayerRange
from helix_df.profiles.timing import LayerTiming
from helix_df.rules.micro_batches import Entrance, MicroBatches, micro_batches
from helix_df.runtime.sampling import SamplingParams
from helix_df.runtime.wire.messages import Forward, Route
from helix_df.runtime.worker.state import WorkerState
from helix_df.runtime.worker.steps import Step, StepResult
from helix_df.simulator import Options, simulate
from tests.simulator.small import chain, stage, trace

SECONDS = st.floats(1e-4, 10.0)


@given(st.lists(SECONDS, min_size=1, max_size=12), st.floats(0, 5))
def test_a_share_a_stage_at_most_and_more_under_way_over_slow_links(step_s, network_s):
    found = micro_batches(step_s, network_s)
    assert 1 <= found.shares <= min(len(step_s), found.most)
    assert micro_batches(step_s, 0).most == found.shares
    assert found.most >= micro_batches(step_s, network_s / 2).most


@given(SECONDS, st.integers(1, 12))
def test_equal_stages_get_a_batch_each_and_a_slow_one_gets_one(second, stages):
    assert micro_batches([second] * stages, 0) == MicroBatches(stages, stages)
    assert micro_batches([second * 100, *[second / 100] * (stages - 1)], 0) == MicroBatches(1, 1)
    assert micro_batches([second] * stages, second * 7) == MicroBatches(stages, stages + 7)


@given(st.lists(st.builds(MicroBatches, st.integers(1, 9), st.integers(9, 12)), min_size=1, max_size=60))
def test_everybody_is_on_the_way_within_as_many_batches_as_shares(pipelines):
    entrance = Entrance()
    for request, pipeline in enumerate(pipelines):
        entrance.enter(request, pipeline)
    waiting = deque(range(len(pipelines)))
    for _ in range(max(pipeline.shares for pipeline in pipelines)):
        entrance.launch([waiting.popleft() for _ in range(min(entrance.room(), len(waiting)))])
    assert not waiting


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 16))
def test_nobody_waits_for_a_batch_that_could_not_grow(count, shares, max_batch):
    """Batches that are full before they are a share: all requests may be under way all the same."""
    entrance, pipeline = Entrance(max_batch), MicroBatches(shares, shares)
    for request in range(count):
        entrance.enter(request, pipeline)
    waiting = deque(range(count))
    while waiting and entrance.room():
        entrance.launch([waiting.popleft() for _ in range(min(entrance.room(), max_batch, len(waiting)))])
    assert not waiting


@given(st.data())
def test_room_is_where_fewer_batches_than_allowed_are_under_way(data):
    """Any order of launches, returns and ends, against a count of batches by hand."""
    entrance, pipeline = Entrance(), MicroBatches(2, 3)
    batches: list[set[int]] = []
    held = set(range(8))
    for request in held:
        entrance.enter(request, pipeline)
    for _ in range(data.draw(st.integers(1, 20))):
        away = set().union(*batches)
        here = sorted(held - away)
        assert (entrance.room() > 0) == (bool(held) and len(batches) < 3)
        if here and entrance.room() and data.draw(st.booleans()):
            batch = here[: entrance.room()]
            entrance.launch(batch)
            batches.append(set(batch))
        elif away:
            request = data.draw(st.sampled_from(sorted(away)))
            batches = [batch for batch in batches if request not in batch]
            if data.draw(st.booleans()):
                entrance.back(request)
            else:
                entrance.leave(request)
                held.remove(request)


def compute(state: WorkerState) -> tuple[Step, ...]:
    """The next batch, whose results are nothing in particular."""
    steps = state.next_batch()
    state.on_results(steps, [StepResult(step.request, hidden=np.zeros((1, 4), np.float32)) for step in steps])
    return steps


@given(count=st.integers(1, 16), shares=st.integers(1, 5))
def test_a_first_stage_decodes_a_share_and_a_later_one_everything(count, shares):
    hops = (Hop("a", LayerRange(0, 2)), Hop("b", LayerRange(2, 4)))
    route = Route(hops, ("tcp://a", "tcp://b"), SamplingParams(), MicroBatches(shares, shares))
    token = np.zeros(1, np.int32)
    for node in ("a", "b"):
        state = WorkerState(node, "tcp://home", 4, max_batch=16, max_prefill_tokens=64)
        tensor = token if node == "a" else np.zeros((1, 4), np.float32)
        names = [f"r{index:02}/1" for index in range(count)]
        for name in names:
            state.on_forward(Forward(name, 0, True, route, tensor))
        while not state.idle:
            compute(state)
        for name in names:
            state.on_forward(Forward(name, 1, True, None, tensor))
        turns = []
        while not state.idle:
            turns.append([step.request for step in compute(state)])
        assert [name for turn in turns for name in turn] == names
        assert max(map(len, turns)) == (-(-count // shares) if node == "a" else count)


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
