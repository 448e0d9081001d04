"""Rules one by one: codecs, batches, partial ranges, feeds, failures, watches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from helix_df.errors import SimulationError
from helix_df.graph.problem import COORDINATOR
from helix_df.profiles.timing import LayerTiming
from helix_df.rules.batching import longest_piece
from helix_df.simulator import Options, options_of, setup_of, simulate
from helix_df.simulator.azure import azure_offline, azure_online
from helix_df.simulator.kernel.build import request_rows, request_table
from helix_df.simulator.kernel.memory import packed
from helix_df.simulator.kernel.tables import FixedRequest
from helix_df.simulator.options import HoldInFlight, NodeEvent
from helix_df.simulator.outcome import to_document
from helix_df.simulator.synthetic import constant, poisson, saturating
from tests.simulator.small import chain, link, setup, stage, trace

PLAIN = Options(seconds=1000, warmup_s=0, prefill_chunk=None, max_prefill_tokens=None, message_bytes=0)


def test_a_codec_shortens_transfers_by_its_ratio():
    nodes = [stage("a", 0, 2, 1e6), stage("b", 2, 4, 1e6)]
    ways = [link(COORDINATOR, "a"), link("a", "b", bytes_per_s=10.0), link("b", COORDINATOR)]
    plain = simulate(setup(nodes, ways), trace((0.0, 40, 1)), PLAIN)
    ways[1] = replace(ways[1], ratio=0.25)
    coded = simulate(setup(nodes, ways), trace((0.0, 40, 1)), PLAIN)
    assert plain.requests.finished_s[0] == pytest.approx(4.0, abs=1e-3)
    assert coded.requests.finished_s[0] == pytest.approx(1.0, abs=1e-3)


def test_links_carry_one_thing_at_a_time():
    """Two prompts of 2 s on the wire each: the second waits for the first."""
    outcome = simulate(chain(stage("a", 0, 1, 1e9), bytes_per_s=10), trace((0.0, 20, 1), (0.0, 20, 1)), PLAIN)
    assert sorted(outcome.requests.first_token_s) == pytest.approx([2.1, 4.1], abs=1e-3)
    busiest = max(outcome.links, key=lambda way: way.utilisation)
    assert busiest.tail == COORDINATOR
    assert busiest.utilisation * 1000 == pytest.approx(4.0)


def test_a_message_has_a_header():
    """10 bytes/s, 5 of header: a prompt of 20 tokens takes 2.5 s to the node, and each token 0.6 s on the way home."""
    asked = trace((0.0, 20, 1), (0.0, 20, 1))
    outcome = simulate(chain(stage("a", 0, 1, 1e9), bytes_per_s=10), asked, replace(PLAIN, message_bytes=5))
    assert sorted(outcome.requests.first_token_s) == pytest.approx([2.5 + 0.6, 5.0 + 0.6], abs=1e-3)


def test_a_nic_is_shared_by_its_links():
    """From one node to two, each link as fast as the NIC: together they take as long as one after the other."""
    nodes = [stage("a", 0, 1, 1e9, nic=10.0), stage("b", 1, 2, 1e9), stage("c", 1, 2, 1e9)]
    ways = [link(COORDINATOR, "a", token_bytes=1e-9)]
    for name in ("b", "c"):
        ways += [link("a", name, bytes_per_s=10.0), link(name, COORDINATOR)]
    outcome = simulate(setup(nodes, ways), trace((0.0, 20, 1), (0.0, 20, 1)), PLAIN)
    assert sorted(outcome.requests.first_token_s) == pytest.approx([2.0, 4.0], abs=1e-3)


def test_decode_goes_first_and_prompts_stay_within_their_budget():
    """While one request decodes, three prompts of 10 tokens wait: a budget of 20 lets two in at a time."""
    timing = LayerTiming(((0.0, 0.0), (10.0, 1.0)), ((0.0, 0.1), (10.0, 0.1)))
    served = chain(stage("a", 0, 1, timing=timing))
    requests = trace((0.0, 1, 100), *((0.15, 10, 1) for _ in range(3)))
    options = replace(PLAIN, max_prefill_tokens=20)
    first = simulate(served, requests, options).requests.first_token_s
    # The step under way ends at 0.2 and goes home, so two prompts run alone, 2.0 s; then it is back: 0.1 + 1.0 s.
    assert first[1:] == pytest.approx([2.2, 2.2, 3.3], abs=0.02)
    one_at_a_time = simulate(served, requests, replace(options, max_prefill_tokens=5)).requests.first_token_s
    assert np.all(np.diff(one_at_a_time[1:]) > 0.99)


def test_batches_stop_at_the_smaller_limit():
    timing = LayerTiming(((0.0, 0.0), (1.0, 1e-4)), ((0.0, 0.1), (100.0, 0.1)), max_batch=7)
    served = chain(stage("a", 0, 1, timing=timing, kv_tokens=10**6))
    options = replace(PLAIN, seconds=60.0, feed=HoldInFlight(30, spacing_s=0.0, delay_s=0.0))
    for limit, most in ((None, 7), (3, 3)):
        outcome = simulate(served, saturating(constant(5), constant(40)), replace(options, max_batch=limit))
        assert outcome.nodes[0].mean_decode_batch == pytest.approx(most, rel=0.1)


def test_a_request_runs_only_the_layers_it_still_needs():
    """a holds [0, 3), b [2, 4): after a, b runs one layer of its two, at a tenth of a second a token and layer."""
    timing = LayerTiming(((0.0, 0.0), (1.0, 0.1)), ((0.0, 0.0), (1.0, 0.1)))
    served = chain(stage("a", 0, 3, timing=timing), stage("b", 2, 4, timing=timing))
    for layer_steps in (False, True):
        options = replace(PLAIN, layer_steps=layer_steps, kv_by_layer=layer_steps)
        outcome = simulate(served, trace((0.0, 10, 2)), options)
        assert outcome.requests.first_token_s[0] == pytest.approx(3.0 + 1.0, abs=1e-6)
        assert outcome.requests.finished_s[0] == pytest.approx(4.0 + 0.3 + 0.1, abs=1e-6)


def test_requests_of_a_lost_node_go_on_elsewhere_with_the_tokens_they_have():
    nodes = [stage("a", 0, 1, 10), stage("b", 0, 1, 10)]
    ways = [way for name in ("a", "b") for way in (link(COORDINATOR, name), link(name, COORDINATOR))]
    options = replace(PLAIN, events=(NodeEvent(3.05, "a", False),))
    outcome = simulate(setup(nodes, ways), trace((0.0, 10, 40)), options)
    requests = outcome.requests
    assert requests.retries.tolist() == [1]
    assert requests.generated_tokens.tolist() == [40]
    # 1 s of prefill, 20 more tokens by 3.0 s, one under way; then prompt and 21 tokens again, and 18 more.
    assert requests.finished_s[0] == pytest.approx(3.05 + 3.1 + 1.8, abs=0.01)
    assert max(outcome.gaps_s) == pytest.approx(3.15, abs=0.01)


@pytest.mark.parametrize("patience_s", [2.0, 60.0])
def test_without_a_path_requests_wait_for_a_node_to_join_but_not_for_ever(patience_s):
    options = replace(PLAIN, events=(NodeEvent(5.0, "a", True),), path_timeout=patience_s)
    outcome = simulate(chain(stage("a", 0, 2)), trace((1.0, 5, 2), (6.0, 5, 2)), options)
    assert outcome.requests.rejected.tolist() == [patience_s < 4.0, False]


def test_a_full_queue_turns_requests_away():
    requests = trace(*((0.0, 40, 5) for _ in range(5)))
    outcome = simulate(chain(stage("a", 0, 2, kv_tokens=50)), requests, replace(PLAIN, max_queue=2))
    assert outcome.rejected == 2


def test_a_watch_ends_the_run_and_hears_how_far_it_is():
    heard: list[tuple[float, float]] = []

    class Impatient:
        def looks(self, now_s: float, end_s: float) -> bool:
            heard.append((now_s, end_s))
            return len(heard) < 2

    served = chain(stage("a", 0, 2, 10_000))
    outcome = simulate(served, poisson(50.0, 1000.0, constant(20), constant(20)), PLAIN, Impatient())
    assert outcome.stopped
    assert 0 < outcome.end_s == heard[-1][0] < 1000
    assert heard[-1][1] == 1000
    assert outcome.in_flight >= 0
    assert to_document(outcome)["stopped"] is True


def test_events_of_unknown_nodes_and_rules_that_contradict_are_refused():
    with pytest.raises(SimulationError, match="no such node"):
        simulate(chain(stage("a", 0, 2)), trace((0.0, 1, 1)), replace(PLAIN, events=(NodeEvent(1.0, "z", True),)))
    with pytest.raises(SimulationError, match="hop by hop"):
        replace(PLAIN, routing="hop")
    by_hop = replace(PLAIN, scheduler="flow", routing="hop", admission="open")
    with pytest.raises(SimulationError, match="chooses whole pipelines"):
        simulate(chain(stage("a", 0, 2)), trace((0.0, 1, 1)), by_hop)
    with pytest.raises(SimulationError, match="no pipeline"):
        simulate(setup([stage("a", 0, 1)], [link(COORDINATOR, "a")]), trace((0.0, 1, 1)), PLAIN)


def test_a_plan_is_served_by_its_jobs_own_parameters(tmp_path):
    from pathlib import Path

    from helix_df.load import load_job
    from helix_df.planning import make_plan

    example = Path(__file__).parents[2] / "spec" / "examples" / "single24.yaml"
    plan = make_plan(load_job(example).with_solver(name="petals", options={}))
    options = options_of(plan.served, seconds=30.0, warmup_s=5.0)
    assert options.kv_high_water == plan.job.runtime.kv_high_water
    assert options.prefill_chunk == longest_piece(plan.served.runtime.max_prefill_tokens)
    planned, measured = setup_of(plan, timing="planned"), setup_of(plan)
    assert [one.kv_tokens for one in planned.stages] == [one.kv_tokens for one in plan.stages]
    assert planned.stages[0].timing != measured.stages[0].timing
    assert measured == setup_of(plan, timing="measured")
    outcome = simulate(planned, poisson(0.5, 35.0, constant(100), constant(20)), options)
    assert outcome.decode_tokens > 0
    with pytest.raises(SimulationError, match="ratio"):
        setup_of(plan, codec_ratio=1.5)


@pytest.mark.parametrize(("share", "mean"), [(0.6, 240.0), (0.2, 240.0), (1.0, 900.0)])
def test_both_forms_get_the_same_requests(share, mean):
    options = Options(expected_output=share, mean_output=mean)
    for requests in (azure_offline(3, 500), azure_online(2.0, 300.0, 1), azure_offline(3, 500).exact()):
        assert np.array_equal(request_table(requests, options), packed(request_rows(requests, options), FixedRequest))


@pytest.mark.parametrize(("shortest_first", "order"), [(False, [0, 1, 2, 3]), (True, [0, 2, 1, 3])])
def test_the_shortest_prompt_goes_first_but_passes_nobody_who_has_waited_for_long(shortest_first, order):
    """There is room for one of the first three at a time. The last is shorter than what it finds waiting, and too late:
    a prompt of 50 tokens is as if it had come half a second later."""
    asked = trace((0.0, 30, 30), (0.1, 50, 40), (0.2, 5, 40), (0.7, 1, 40))
    options = replace(PLAIN, expected_output=1.0, shortest_first=shortest_first)
    outcome = simulate(chain(stage("a", 0, 1, 10.0, kv_tokens=100)), asked, options)
    assert np.argsort(outcome.requests.admitted_s, kind="stable").tolist() == order
    assert outcome.requests.generated_tokens.tolist() == [30, 40, 40, 40]


def test_a_node_may_have_limits_of_its_own():
    """Two nodes one after the other, forty requests in flight: the one with a limit of its own decodes in batches of at
    most two, and prompts of 20 tokens go one at a time there where its batches hold 20 prompt tokens."""
    crowd = saturating(constant(20), constant(20))
    options = Options(seconds=300, warmup_s=0, micro_batches=False, feed=HoldInFlight(40), max_prefill_tokens=100)
    one, other = stage("a", 0, 1, 100.0), stage("b", 1, 2, 100.0)
    usual = simulate(chain(one, other), crowd, options)
    said = replace(other, max_batch=16, max_prefill_tokens=100)
    assert np.array_equal(simulate(chain(one, said), crowd, options).gaps_s, usual.gaps_s)
    limited = simulate(chain(one, replace(other, max_batch=2)), crowd, options)
    assert limited.nodes[1].mean_decode_batch <= 2 < usual.nodes[1].mean_decode_batch
    apart = simulate(chain(one, replace(other, max_prefill_tokens=20)), crowd, options)
    assert not np.array_equal(apart.gaps_s, usual.gaps_s)
