"""What holds in every simulation: tokens are kept, time and memory behave, and no plan gives more than its flow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from helix_df.graph.max_flow import placement_flow
from helix_df.profiles.throughput import Requests
from helix_df.profiles.timing import LayerTiming, closed_form, linear_timing
from helix_df.rules.schedulers.registry import SCHEDULERS
from helix_df.simulator import Options, Outcome, Setup, Trace, TraceRequest, simulate
from helix_df.simulator.kernel.tables import NOTHING
from helix_df.simulator.options import FeedByKv, HoldInFlight, NodeEvent
from helix_df.simulator.report import Report
from helix_df.simulator.setup import StageSetup, assemble_setup
from helix_df.simulator.simulation import Course, Simulation
from helix_df.simulator.synthetic import constant, poisson, saturating
from property_tests.strategies import placed_problems
from tests.simulator.small import chain, stage
from tests.simulator.small import trace as small_trace

MANY = settings(max_examples=80)
SOME = settings(max_examples=25)
FEW = settings(max_examples=8)


@st.composite
def setups(draw: st.DrawFn, partial: bool | None = None, kv_tokens: int | None = None, nics: bool = True) -> Setup:
    """A random placement that carries something; every token costs the same, so that tables mean what they say."""
    problem, placement = draw(placed_problems(max_nodes=5, max_layers=5, partial=partial, servable=True))
    # Only outputs come home, while a flow counts prompts there too: let nothing bind on the way home.
    problem = replace(problem, token_bytes=1e-6)  # type: ignore[arg-type]  # bytes, and next to none of them
    if not nics:
        problem = replace(problem, nodes=tuple(replace(node, nic_bytes_per_s=None) for node in problem.nodes))
    flow = placement_flow(problem, placement)
    assume(flow.value >= 1.0)
    nodes = {node.name: node for node in problem.nodes}
    stages = tuple(
        StageSetup(
            name,
            layers,
            linear_timing(nodes[name].throughput(len(layers)), len(layers)),
            kv_tokens or draw(st.integers(20, 400)),
            nodes[name].nic_bytes_per_s,
        )
        for name, layers in sorted(placement.items())
    )
    return assemble_setup("random", problem, stages, flow.edges, flow.value)


@st.composite
def traces(draw: st.DrawFn, most: int = 12) -> Trace:
    requests = []
    for _ in range(draw(st.integers(1, most))):
        output = draw(st.integers(1, 20))
        arrival = draw(st.sampled_from((0.0, 0.0, 0.5, 3.0, 20.0)))
        requests.append(TraceRequest(arrival, draw(st.integers(1, 60)), output, output + draw(st.integers(0, 20))))
    return Trace("random", tuple(sorted(requests, key=lambda request: request.arrival_s)))


@st.composite
def rules(draw: st.DrawFn) -> Options:
    scheduler = draw(st.sampled_from(("flow", *SCHEDULERS)))
    hop = not scheduler.startswith("flow") and draw(st.booleans())
    options = Options(
        seconds=100.0,
        warmup_s=draw(st.sampled_from((0.0, 5.0))),
        drain=True,
        seed=draw(st.integers(0, 3)),
        scheduler=scheduler,
        routing="hop" if hop else "admission",
        admission="open" if hop else draw(st.sampled_from(("kv", "kv", "open"))),
        kv_high_water=draw(st.sampled_from((0.5, 0.9, 1.0))),
        expected_output=draw(st.sampled_from((0.1, 0.6, 1.0))),
        max_batch=draw(st.sampled_from((None, 1, 3, 16))),
        max_prefill_tokens=draw(st.sampled_from((None, 16, 64))),
        kv_by_layer=draw(st.booleans()),
        batching=draw(st.sampled_from(("decode_first", "arrival"))),
        prefill_chunk=draw(st.sampled_from((None, 7, 64))),
        merge_prefills=draw(st.booleans()),
        rides=draw(st.booleans()),
        context_per_slot=draw(st.sampled_from((None, 100))),
        layer_steps=draw(st.booleans()),
        bundles=draw(st.booleans()),
        copy_bytes_per_s=draw(st.sampled_from((None, 1e3))),
        prefill_gives_token=draw(st.booleans()),
        series=7,
    )
    if not options.sends_messages:
        return options
    shares = st.sampled_from((0.3, 0.9))
    return replace(
        options, drafts=draw(st.sampled_from((0, 1, 5))), acceptance=draw(shares), coverage=draw(st.just(1.0) | shares)
    )


@st.composite
def failures(draw: st.DrawFn, setup: Setup) -> tuple[NodeEvent, ...]:
    names = [stage.name for stage in setup.stages]
    times = st.sampled_from((0.0, 0.3, 1.0, 2.5, 7.0, 30.0))
    return tuple(draw(st.lists(st.builds(NodeEvent, times, st.sampled_from(names), st.booleans()), max_size=4)))


def check(outcome: Outcome) -> None:
    """Everything that must be true of any drained run."""
    requests = outcome.requests
    done = ~np.isnan(requests.finished_s)
    assert np.all(done ^ requests.rejected), "a request neither ended nor was rejected, or both"
    assert np.array_equal(requests.generated_tokens[done], requests.output_tokens[done])
    assert np.all(requests.generated_tokens <= requests.output_tokens)
    assert np.all(requests.arrived_s[done] <= requests.admitted_s[done])
    assert np.all(requests.admitted_s[done] <= requests.first_token_s[done])
    assert np.all(requests.first_token_s[done] <= requests.finished_s[done])
    assert outcome.in_flight == outcome.waiting == 0
    assert np.all(outcome.gaps_s >= 0)
    assert all(0 <= node.kv_peak <= 1 for node in outcome.nodes)
    assert np.all(outcome.series.kv >= 0)
    assert np.all(outcome.series.kv <= 1)
    # The last bits of a share come from adding up thousands of batches.
    assert all(-1e-9 <= node.utilisation <= 1 + 1e-9 for node in outcome.nodes)


def drained(setup: Setup, trace: Trace, options: Options) -> Outcome:
    """``simulate``, with a look at what is left on the stages."""
    report = Report()
    simulation = Simulation(setup, Course(trace, options), form="plain", reader=report)
    simulation.run()
    state, counts = simulation.state, simulation.state.counts[0]
    stages = [state.stages[at] for at in range(len(state.stages))]
    queues = [state.queues[at] for at in range(len(state.queues))]
    assert [stage.kv_used for stage in stages] == [0] * len(stages)
    assert [stage.used for stage in stages] == [stage.through for stage in stages] == [0] * len(stages)
    assert counts.dead == counts.afloat == counts.active == counts.delayed == 0
    assert not any(stage.busy or stage.under_way or stage.inbox_first != NOTHING for stage in stages)
    assert all(queue.first == queue.last == NOTHING for queue in queues)
    return report.outcome(simulation, stopped=False)


@MANY
@given(setups(), traces(), rules())
def test_no_token_is_lost_and_the_cache_holds(setup, trace, options):
    outcome = drained(setup, trace, options)
    check(outcome)
    if options.admission == "kv":
        fits = [request.input_tokens + request.max_tokens for request in trace.requests]
        room = min(stage.kv_tokens // options.kv_page_tokens for stage in setup.stages) * options.kv_page_tokens
        assert outcome.rejected <= sum(most > room for most in fits)


@MANY
@given(setups(), traces(), rules(), st.data())
def test_nodes_that_fail_and_join_lose_no_token_either(setup, trace, options, data):
    check(drained(setup, trace, replace(options, events=data.draw(failures(setup)))))


def test_a_node_may_be_gone_before_a_prompt_comes_to_it():
    """Hop by hop nobody knows beforehand that a request will need it."""
    setup = chain(stage("a", 0, 3, kv_tokens=100), stage("b", 3, 4, kv_tokens=100))
    gone = (NodeEvent(0.0, "b", False),)
    options = Options(
        seconds=9.0, warmup_s=0.0, drain=True, scheduler="random", routing="hop", admission="open", series=1
    )
    outcome = drained(setup, small_trace((0.0, 1, 1)), replace(options, events=gone))
    check(outcome)
    assert outcome.requests.rejected.all()


@MANY
@given(
    setups(partial=False, kv_tokens=5_000, nics=False),
    st.integers(1, 60),
    st.integers(1, 20),
    rules(),
    st.integers(1, 40),
)
def test_nothing_serves_more_than_the_maximum_flow(setup, inputs, outputs, options, count):
    trace = Trace("burst", (TraceRequest(0.0, inputs, outputs, outputs),) * count)
    outcome = simulate(setup, trace, replace(options, prefill_gives_token=False, warmup_s=0.0))
    check(outcome)
    last = float(np.max(outcome.requests.finished_s))
    assert count * (inputs + outputs) / last <= setup.flow * (1 + 1e-6)


@SOME
@given(setups(), traces(), rules())
def test_the_same_seed_gives_the_same_result(setup, trace, options):
    assert_same(simulate(setup, trace, options), simulate(setup, trace, options))


@SOME
@given(setups(), traces(), rules(), st.randoms(use_true_random=False))
def test_names_change_nothing(setup, trace, options, random):
    names = [stage.name for stage in setup.stages]
    others = [f"other{number}" for number in range(len(names))]
    random.shuffle(others)
    renamed = simulate(setup.renamed(dict(zip(names, others, strict=True))), trace, options)
    assert_same(simulate(setup, trace, options), renamed)


def assert_same(one: Outcome, other: Outcome) -> None:
    for name in one.requests.__slots__:
        assert np.array_equal(getattr(one.requests, name), getattr(other.requests, name), equal_nan=True), name
    assert np.array_equal(one.gaps_s, other.gaps_s)
    assert [replace(node, name="") for node in one.nodes] == [replace(node, name="") for node in other.nodes]
    for name in one.series.__slots__:
        assert np.array_equal(getattr(one.series, name), getattr(other.series, name)), name


@FEW
@given(st.integers(1, 6), st.integers(0, 40), st.integers(1, 5), st.integers(1, 24), st.integers(20, 200))
def test_a_single_node_is_the_closed_form(layers, fixed_ms, step_ms, batch, inputs):
    """A node with work at all times serves what the throughput model says of it at the batch it runs.

    Decode times are affine, so that batches of unlike sizes cost what their mean does.
    """
    outputs, most = 100, 64
    decode = ((0.0, fixed_ms / 1000), (float(most), (fixed_ms + most * step_ms) / 1000))
    timing = LayerTiming(((0.0, 0.0), (100.0, 0.05)), decode)
    setup = chain(stage("a", 0, layers, timing=timing, kv_tokens=batch * (inputs + outputs)))
    options = Options(
        seconds=1600.0,
        warmup_s=100.0,
        admission="open",
        feed=HoldInFlight(batch, spacing_s=0.5, delay_s=0.0),
        max_batch=None,
        max_prefill_tokens=None,
        prefill_chunk=None,
        prefill_gives_token=False,
        kv_page_tokens=1,
        batching="arrival",
    )
    outcome = simulate(setup, saturating(constant(inputs), constant(outputs)), options)
    (node,) = outcome.nodes
    assert node.utilisation == pytest.approx(1.0, abs=1e-3)
    mean = node.mean_decode_batch
    here = LayerTiming(timing.prefill, ((0.0, timing.decode_s(mean)), (mean, timing.decode_s(mean))))
    expected = closed_form(here, 10**6, layers, Requests(inputs, outputs, most))
    assert mean <= batch
    assert outcome.tokens_per_s == pytest.approx(expected, rel=0.05)


@FEW
@given(st.integers(0, 1000), st.sampled_from((1.0, 2.0, 4.0)))
def test_littles_law(seed, requests_per_s):
    """Samples of how many requests there are agree with arrivals times the mean time each is there."""
    setup = chain(stage("a", 0, 2, 2_000, 50_000), stage("b", 2, 4, 2_000, 50_000), latency_s=0.05)
    trace = poisson(requests_per_s, 460.0, constant(100), constant(50), seed)
    outcome = simulate(setup, trace, Options(seconds=400.0, warmup_s=50.0, drain=True, series=900))
    times = outcome.series.time_s
    inside = (times >= outcome.start_s) & (times < outcome.end_s)
    there = (outcome.series.in_flight + outcome.series.waiting)[inside].mean()
    arrived = (outcome.requests.arrived_s >= outcome.start_s) & (outcome.requests.arrived_s < outcome.end_s)
    stay = (outcome.requests.finished_s - outcome.requests.arrived_s)[arrived].mean()
    assert there == pytest.approx(arrived.sum() / outcome.seconds * stay, rel=0.1)


@SOME
@given(setups(kv_tokens=300), st.sampled_from((HoldInFlight(3), FeedByKv(initial=2))), st.integers(1, 50))
def test_other_feeds_keep_going(setup, feed, inputs):
    options = Options(seconds=40.0, warmup_s=0.0, scheduler="flow-tokens", kv_by_layer=True, feed=feed, series=3)
    outcome = simulate(setup, saturating(constant(inputs), constant(8)), options)
    assert outcome.in_flight + outcome.waiting + int((~np.isnan(outcome.requests.finished_s)).sum()) > 0
    assert all(node.kv_peak <= 1 for node in outcome.nodes)
    if isinstance(feed, HoldInFlight):
        assert max(outcome.series.in_flight + outcome.series.waiting) <= feed.count
