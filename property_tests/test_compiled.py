"""The compiled event loop finds exactly what the other one does: the same tokens at the same times."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from helix_df.simulator import Options, Setup, Trace
from helix_df.simulator.compiled.quick import QuickRun
from helix_df.simulator.options import ARTIFACT, FeedByKv, Saturate
from helix_df.simulator.world import World
from property_tests.test_simulator import setups, traces


@st.composite
def rules(draw: st.DrawFn) -> Options:
    """Every rule that the compiled loop knows, and combinations that nobody would choose."""
    kv_by_layer = draw(st.booleans())
    feeds: list[Saturate | FeedByKv] = [Saturate()]
    if kv_by_layer:
        feeds.append(FeedByKv(initial=3, spacing_s=0.5, delay_s=0.2))
    return Options(
        seconds=60.0,
        warmup_s=draw(st.sampled_from((0.0, 5.0))),
        scheduler=draw(st.sampled_from(("flow", "flow-tokens"))),
        when_full=draw(st.sampled_from(("wait", "drop"))),
        kv_high_water=draw(st.sampled_from((0.5, 0.9, 1.0))),
        expected_output=draw(st.sampled_from((0.1, 0.6, 1.0))),
        mean_output=draw(st.sampled_from((3.0, 240.0))),
        max_queue=draw(st.sampled_from((2, 1024))),
        max_batch=draw(st.sampled_from((None, 1, 3, 16))),
        max_prefill_tokens=draw(st.sampled_from((None, 16, 64))),
        kv_by_layer=kv_by_layer,
        batching=draw(st.sampled_from(("decode_first", "arrival"))),
        prefill_chunk=draw(st.sampled_from((None, 7, 64))),
        merge_prefills=draw(st.booleans()),
        context_per_slot=draw(st.sampled_from((None, 20))),
        layer_steps=draw(st.booleans()),
        micro_batches=draw(st.booleans()),
        bundles=draw(st.booleans()),
        message_bytes=draw(st.sampled_from((0.0, 160.0))),
        copy_bytes_per_s=draw(st.sampled_from((None, 1e4))),
        prefill_gives_token=draw(st.booleans()),
        feed=draw(st.sampled_from(feeds)),
    )


def same(setup: Setup, trace: Trace, options: Options) -> None:
    """Run both, in steps, and compare everything that the compiled one keeps."""
    world, quick = World(setup, trace, options), QuickRun(setup, trace, options)
    for until_s in (1.0, 7.5, 30.0, 1000.0):
        world.advance(until_s)
        quick.advance(until_s)
        assert (quick.decode_tokens, quick.prompt_tokens) == (world.decode_tokens, world.prompt_tokens)
    outcome = world.meter.outcome(stopped=False)
    assert np.array_equal(quick.gaps_s, outcome.gaps_s)
    assert np.array_equal(quick.ttft_s, outcome.ttft_s)
    assert quick.rejected == outcome.rejected


@settings(max_examples=150)
@given(setups(), traces(), rules())
def test_arrivals(setup, trace, options):
    same(setup, trace, options)


@settings(max_examples=150)
@given(setups(), traces(), rules())
def test_saturated(setup, trace, options):
    same(setup, replace(trace, saturating=True), options)


@settings(max_examples=60)
@given(setups(kv_tokens=60), traces())
def test_the_artifacts_rules_where_caches_overflow(setup, trace):
    """Expected use below what comes, so that steps are refused and requests start over."""
    options = replace(ARTIFACT, seconds=60.0, warmup_s=0.0, scheduler="flow-tokens", feed=FeedByKv(), mean_output=1.0)
    same(setup, replace(trace, saturating=True), options)
