"""The loop is one loop: plain or compiled, with its own turns or the runtime's routers, in steps or at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from helix_df.simulator import Options, Outcome, Setup, Trace
from helix_df.simulator.artifact import ARTIFACT
from helix_df.simulator.options import Feed, FeedByKv, HoldInFlight, Saturate
from helix_df.simulator.report import Report
from helix_df.simulator.simulation import Course, Form, Simulation
from property_tests.test_simulator import assert_same, failures, setups, traces


@st.composite
def rules(draw: st.DrawFn) -> Options:
    """Every rule there is, and combinations that nobody would choose."""
    kv_by_layer = draw(st.booleans())
    scheduler = draw(st.sampled_from(("flow", "flow", "flow-tokens", "random", "shortest-queue", "swarm")))
    hop = not scheduler.startswith("flow") and draw(st.booleans())
    feeds: list[Feed] = [HoldInFlight(4, spacing_s=0.3), HoldInFlight(2, delay_s=0.0)]
    open_door = hop or draw(st.sampled_from((False, False, True)))
    if not open_door:
        feeds.append(Saturate())
    if kv_by_layer and not hop:
        feeds.append(FeedByKv(initial=3, spacing_s=0.5, delay_s=0.2))
    return Options(
        seconds=60.0,
        warmup_s=draw(st.sampled_from((0.0, 5.0))),
        drain=draw(st.booleans()),
        seed=draw(st.integers(0, 3)),
        scheduler=scheduler,
        sees=draw(st.sampled_from(("coordinator", "everything"))),
        routing="hop" if hop else "admission",
        ways=draw(st.sampled_from(("feasible", "flow"))),
        admission="open" if open_door else "kv",
        when_full=draw(st.sampled_from(("wait", "drop"))),
        kv_high_water=draw(st.sampled_from((0.5, 0.9, 1.0))),
        expected_output=draw(st.sampled_from((0.1, 0.6, 1.0))),
        mean_output=draw(st.sampled_from((1.0, 3.0, 240.0))),
        shortest_first=draw(st.booleans()),
        max_queue=draw(st.sampled_from((2, 1024))),
        max_batch=draw(st.sampled_from((None, 1, 3, 16))),
        max_prefill_tokens=draw(st.sampled_from((None, 16, 64))),
        kv_by_layer=kv_by_layer,
        batching=draw(st.sampled_from(("decode_first", "arrival"))),
        prefill_chunk=draw(st.sampled_from((None, 7, 64))),
        merge_prefills=draw(st.booleans()),
        rides=draw(st.booleans()),
        context_per_slot=draw(st.sampled_from((None, 20))),
        layer_steps=draw(st.booleans()),
        micro_batches=draw(st.booleans()),
        bundles=draw(st.booleans()),
        message_bytes=draw(st.sampled_from((0.0, 160.0))),
        copy_bytes_per_s=draw(st.sampled_from((None, 1e4))),
        prefill_gives_token=draw(st.booleans()),
        backs_off=draw(st.booleans()),
        feed=draw(st.sampled_from(feeds)),
        series=7,
    )


Found = tuple[Outcome, tuple[np.ndarray, ...]]


def run(setup: Setup, trace: Trace, options: Options, form: Form = "plain", ask: bool = False) -> Found:
    report = Report()
    course = Course(trace, options)
    simulation = Simulation(setup, course, form=form, reader=report, record_tokens=True, ask=ask)
    simulation.run()
    return report.outcome(simulation, stopped=False), simulation.tokens


def same(one: Found, other: Found) -> None:
    assert_same(one[0], other[0])
    assert one[0].links == other[0].links
    for mine, theirs in zip(one[1], other[1], strict=True):
        assert np.array_equal(mine, theirs)


@settings(max_examples=60)
@given(setups(), traces(), rules(), st.booleans(), st.data())
def test_compiled_or_not(setup, trace, options, saturating, data):
    """Failures and joins included: the same tokens at the same times, and the same of every node and link."""
    options = replace(options, events=data.draw(failures(setup)))
    trace = replace(trace, saturating=saturating)
    same(run(setup, trace, options), run(setup, trace, options, form="compiled"))


@settings(max_examples=60)
@given(setups(kv_tokens=60), traces())
def test_compiled_or_not_where_caches_overflow(setup, trace):
    """Expected use below what comes, so that steps are refused and requests start over."""
    options = replace(ARTIFACT, seconds=60.0, warmup_s=0.0, scheduler="flow-tokens", feed=FeedByKv(), mean_output=1.0)
    trace = replace(trace, saturating=True)
    same(run(setup, trace, options), run(setup, trace, options, form="compiled"))


@settings(max_examples=50)
@given(setups(), traces(), rules(), st.sampled_from(("flow", "flow-tokens")), st.booleans(), st.data())
def test_its_own_turns_are_the_routers(setup, trace, options, scheduler, saturating, data):
    """What the loop chooses over its tables is what the runtime's router chooses when it is asked."""
    options = replace(options, scheduler=scheduler, routing="admission", events=data.draw(failures(setup)))
    trace = replace(trace, saturating=saturating)
    same(run(setup, trace, options), run(setup, trace, options, ask=True))


@settings(max_examples=60)
@given(setups(), traces(), rules(), st.lists(st.floats(0, 70), max_size=6))
def test_in_steps_or_at_once(setup, trace, options, pauses):
    course = Course(trace, options)
    steps, once = (Simulation(setup, course, form="plain", record_tokens=True) for _ in range(2))
    for until_s in sorted(pauses):
        steps.advance(until_s)
        assert all(time <= until_s for time in steps.tokens[2]) or not options.bundles
    steps.run()
    once.run()
    for mine, theirs in zip(steps.tokens, once.tokens, strict=True):
        assert np.array_equal(mine, theirs)


@settings(max_examples=60)
@given(setups(), traces(), rules())
def test_every_token_comes_home_once_and_in_order(setup, trace, options):
    outcome, (request, index, time_s) = run(setup, trace, replace(options, drain=True))
    for number, tokens in enumerate(outcome.requests.generated_tokens):
        mine = request == number
        assert index[mine].tolist() == list(range(tokens))
        assert np.all(np.diff(time_s[mine]) >= 0)
