"""Layers with a window take the time of what they see: one that nothing leaves is none, a shorter one is no slower."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helix_df.graph.bounds import best_bound
from helix_df.graph.compile import compile_problem
from helix_df.graph.stage_timing import node_timing
from helix_df.layers import LayerRange
from helix_df.plan.goodput import timing_of
from helix_df.planning import make_plan
from helix_df.profiles.geometry import ModelGeometry
from helix_df.profiles.kv_windows import KvShape, shape_in_a_row
from helix_df.profiles.throughput import Requests, Roofline, best_from_roofline, from_roofline
from helix_df.profiles.timing import roofline_timing
from helix_df.simulator.options import options_of
from helix_df.simulator.setup import setup_of
from helix_df.simulator.simulate import simulate
from helix_df.simulator.synthetic import constant, poisson
from helix_df.spec.job import Job

LAYERS = 6
CONTEXT = 2048
REQUESTS = Requests(700.0, 300.0, 64)
GEOMETRY = ModelGeometry("qwen2", LAYERS, 64, 128, 4, 2, 16, 100, CONTEXT)
ROOFLINES = st.builds(Roofline, st.sampled_from((1e9, 1e11, 1e14)), st.sampled_from((1e8, 1e9, 1e10)))
WINDOWS = st.lists(st.sampled_from((0, 0, 16, 500, 700, 850)), min_size=LAYERS, max_size=LAYERS).map(tuple)


def with_windows(windows: tuple[int, ...]) -> ModelGeometry:
    return replace(GEOMETRY, attention=replace(GEOMETRY.attention, windows=windows))


def job_of(folder: str, window: int | None, gpu: dict[str, Any], solver: str = "swarm") -> Job:
    """A Qwen 2 whose upper layers have a window, on three nodes."""
    config = {
        "model_type": "qwen2",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": LAYERS,
        "vocab_size": 100,
        "max_position_embeddings": CONTEXT,
        "max_window_layers": 2,
        **({} if window is None else {"use_sliding_window": True, "sliding_window": window}),
    }
    path = Path(folder) / "config.json"
    path.write_text(json.dumps(config))
    return Job.model_validate(
        {
            "name": "windowed",
            "model": {"source": f"random:{path}", "dtype": "bfloat16"},
            "nodes": {name: {"gpu": "G"} for name in "abc"},
            "gpus": {"G": gpu},
            "links": {"default": {"bandwidth": "1 Gb/s", "latency": "1 ms"}},
            "workload": {"input_length": 700, "output_length": 300},
            "solver": solver,
        }
    )


def by_roofline(memory: int) -> dict[str, Any]:
    return {"memory": f"{memory} B", "profile": {"compute": "1 GFLOPS", "bandwidth": "0.05 GB/s"}}


def test_what_is_seen_is_the_mean_over_a_requests_decode():
    contexts = np.arange(700, 1000) + 0.5
    for window in (16, 700, 701, 850, 999, 1000, 5000):
        assert REQUESTS.seen_tokens(window) == pytest.approx(np.minimum(contexts, window).mean(), rel=1e-5)
    assert REQUESTS.seen_tokens(1000) == REQUESTS.seen_tokens(0) == 850


@settings(max_examples=60, deadline=None)
@given(roofline=ROOFLINES, window=st.sampled_from((1000, 1001, 10**6)), windowed=st.integers(1, LAYERS))
def test_a_window_that_nothing_leaves_takes_the_same_time(roofline, window, windowed):
    plain = roofline_timing(GEOMETRY, 2, roofline, REQUESTS)
    shape = KvShape(LAYERS - windowed, windowed, window)
    assert roofline_timing(GEOMETRY, 2, roofline, REQUESTS, shape=shape) == plain
    kept = (50_000, 20_000, 12_000, 9_000, 7_000, 5_000)
    geometry = with_windows((0,) * (LAYERS - windowed) + (window,) * windowed)
    for throughput in (from_roofline, best_from_roofline):
        found = throughput(geometry, 2, roofline, kept, REQUESTS)
        assert found == from_roofline(GEOMETRY, 2, roofline, kept, REQUESTS)


@settings(max_examples=100, deadline=None)
@given(roofline=ROOFLINES, windows=WINDOWS, shorter=st.sampled_from((1, 16, 400, 600, 800)), batch=st.integers(1, 300))
def test_a_shorter_window_is_never_slower(roofline, windows, shorter, batch):
    narrow = tuple(min(window, shorter) for window in windows)
    ours, theirs = with_windows(windows), with_windows(narrow)
    for start in range(LAYERS):
        held = LayerRange(start, LAYERS)
        wide_s, narrow_s = (
            roofline_timing(each, 2, roofline, REQUESTS, shape=each.attention.shape(held)).decode_s(batch)
            for each in (ours, theirs)
        )
        assert narrow_s <= wide_s * (1 + 1e-12)
    kept = (5000,) * LAYERS
    slow, quick = (from_roofline(each, 2, roofline, kept, REQUESTS).tokens_per_s for each in (ours, theirs))
    assert all(one <= other * (1 + 1e-12) for one, other in zip(slow, quick, strict=True))


@settings(max_examples=100, deadline=None)
@given(roofline=ROOFLINES, windows=WINDOWS, count=st.integers(1, LAYERS), batch=st.integers(1, 300))
def test_any_layers_in_a_row_lie_between_what_plans_and_bounds_count(roofline, windows, count, batch):
    geometry, kept = with_windows(windows), (5000,) * LAYERS

    def step_s(shape: KvShape) -> float:
        return roofline_timing(geometry, 2, roofline, REQUESTS, shape=shape).decode_s(batch)

    planned = from_roofline(geometry, 2, roofline, kept, REQUESTS).tokens_per_s[count - 1]
    bounding = best_from_roofline(geometry, 2, roofline, kept, REQUESTS).tokens_per_s[count - 1]
    slowest, quickest = (step_s(shape_in_a_row(windows, count, fewest=fewest)) for fewest in (False, True))
    for start in range(LAYERS - count + 1):
        own = geometry.attention.shape(LayerRange(start, start + count))
        assert quickest * (1 - 1e-12) <= step_s(own) <= slowest * (1 + 1e-12)
        rate = from_roofline(geometry, 2, roofline, kept, REQUESTS, shapes=(own,) * LAYERS).tokens_per_s[count - 1]
        assert planned * (1 - 1e-12) <= rate <= bounding * (1 + 1e-12)


@settings(max_examples=8, deadline=None)
@given(memory=st.integers(700_000, 4_000_000), solver=st.sampled_from(("swarm", "even")))
def test_a_window_longer_than_any_request_plans_and_simulates_as_none(memory, solver):
    with tempfile.TemporaryDirectory(dir="/tmp") as one, tempfile.TemporaryDirectory(dir="/tmp") as other:
        jobs = job_of(one, None, by_roofline(memory), solver), job_of(other, 1024, by_roofline(memory), solver)
        plain, windowed = (make_plan(job) for job in jobs)
        assert windowed.placement == plain.placement
        assert (windowed.flow, windowed.edges) == (plain.flow, plain.edges)
        assert (windowed.certificate, windowed.rules) == (plain.certificate, plain.rules)
        assert [stage.windowed for stage in windowed.stages] != [0] * len(windowed.stages)
        trace = poisson(1.0, 20.0, constant(700), constant(300), seed=1)
        without, found = (
            simulate(setup_of(plan), trace, options_of(plan.served, seconds=30.0), form="plain")
            for plan in (plain, windowed)
        )
        assert found.decode_tokens == without.decode_tokens > 0
        assert np.array_equal(found.gaps_s, without.gaps_s)
        for name in without.requests.__slots__:
            one_column, other_column = getattr(found.requests, name), getattr(without.requests, name)
            assert np.array_equal(one_column, other_column, equal_nan=one_column.dtype.kind == "f"), name


@settings(max_examples=10, deadline=None)
@given(memory=st.integers(700_000, 4_000_000), window=st.sampled_from((16, 256, 800)))
def test_bounds_hold_for_the_layers_that_see_least(memory, window):
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        job = job_of(folder, window, by_roofline(memory))
        problem = compile_problem(job)
        plan = make_plan(job, problem=problem)
        assert plan.flow <= best_bound(problem.favourable).bound * (1 + 1e-9)
        origin, bounding = problem.origin, timing_of(job, problem, "measured")
        assert origin is not None
        for stage in plan.stages:
            shape = origin.geometry.attention.shape(stage.layers)
            known = origin.geometry, origin.requests, stage.node, len(stage.layers), stage.kv_tokens
            exact = node_timing(job, *known, "measured", shape)
            least = bounding(problem.node(stage.node), len(stage.layers))
            assert all(least.decode_s(batch) <= exact.decode_s(batch) * (1 + 1e-12) for batch in (1, 2, 7, 64, 300))


@pytest.mark.parametrize(
    "profile",
    [
        {"prefill_ms": [[64, 1.0], [512, 4.0]], "decode_ms": [[1, 0.5], [16, 1.0]], "kv_tokens": [9000, 4000, 2000]},
        {"tokens_per_s": [900, 500, 300], "kv_tokens": [9000, 4000, 2000]},
    ],
    ids=["curves", "table"],
)
def test_what_was_measured_stays_as_measured(tmp_path, profile):
    job = job_of(str(tmp_path), 16, {"memory": "4 MB", "profile": profile})
    problem = compile_problem(job)
    origin = problem.origin
    assert origin is not None
    windows = origin.geometry.attention.windows
    for layers in (1, 2, 3):
        known = origin.geometry, origin.requests, "a", layers, problem.nodes[0].kv_tokens[layers - 1]
        shapes = (None, shape_in_a_row(windows, layers), shape_in_a_row(windows, layers, fewest=True))
        assert len({node_timing(job, *known, "measured", shape) for shape in shapes}) == 1
