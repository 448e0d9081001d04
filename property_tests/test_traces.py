"""A traced request's time is that of its parts, none of which is below 0, whatever clocks and orders there are."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_df.graph.flow import Hop
from helix_df.layers import LayerRange
from helix_df.rules.micro_batches import UNDIVIDED
from helix_df.runtime.coordinator.request_traces import DONE, PATIENCE_S, RequestTraces
from helix_df.runtime.requests import GenerationRequest, TokenEvent
from helix_df.runtime.sampling import SamplingParams
from helix_df.runtime.tracing.clocks import ClockLead, ahead_s
from helix_df.runtime.tracing.spans import HopSum, TimedSpan, shares
from helix_df.runtime.wire.messages import Forward, HopTimes, Route
from helix_df.runtime.worker.hop_recorder import HopRecorder
from helix_df.runtime.worker.steps import Step

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
SECONDS = st.floats(0, 100, allow_nan=False)
ANY = st.floats(-1e6, 1e6, allow_nan=False)
SHORT = st.floats(0.001, 0.5)
NODES = ("a", "b", "c")


@given(ANY, ANY, st.lists(st.tuples(ANY, ANY, ANY), max_size=5), st.booleans())
def test_shares_add_up_and_none_is_negative(
    sent: float, came: float, told: list[tuple[float, float, float]], comparable: bool
) -> None:
    found = shares(sent, came, [HopSum(1, *one) for one in told], comparable=comparable)
    parts = [part for hop in found.hops for part in hop] + list(found.links)
    assert all(part >= 0 for part in parts)
    assert len(found.links) == len(told) + 1
    assert sum(parts) == pytest.approx(max(0.0, came - sent), abs=1e-6)
    assert found.whole_s == pytest.approx(sum(parts))


@given(st.lists(SECONDS, min_size=1, max_size=40), st.lists(SECONDS, min_size=1, max_size=40), ANY)
def test_clocks_are_set_by_messages_that_nothing_held_up(there: list[float], back: list[float], ahead: float) -> None:
    """The error is at most half of the difference between the quickest ways there and back."""
    ours, theirs = ClockLead(), ClockLead()
    for at, delay in enumerate(there):
        ours.note(at - ahead, at + delay)
    for at, delay in enumerate(back):
        theirs.note(at, at + delay - ahead)
    error = abs(ahead_s(ours.least_s, theirs.least_s) - ahead)
    assert error <= abs(min(there[-32:]) - min(back[-32:])) / 2 + 1e-6
    assert ahead_s(None, theirs.least_s) is None


@dataclass
class Walk:
    """A request on its way through the real recorders, on a time line of its own; each worker's clock is off by as much
    as ``off`` says."""

    off: dict[str, float]
    told: list[tuple[str, TimedSpan]] = field(default_factory=list)
    now: float = 0.0
    traces: RequestTraces = field(init=False)
    workers: dict[str, HopRecorder] = field(init=False)
    hops: dict[str, float] = field(default_factory=lambda: dict.fromkeys(NODES, 0.0))
    links: list[float] = field(default_factory=lambda: [0.0] * (len(NODES) + 1))
    own: float = 0.0
    knows_clocks: bool = True

    def __post_init__(self) -> None:
        self.traces = RequestTraces(
            "tiny", lambda *one: self.told.append(one), lambda node: -self.off[node] if self.knows_clocks else None
        )
        self.workers = {node: HopRecorder(node) for node in NODES}

    @property
    def route(self) -> Route:
        hops = tuple(Hop(node, LayerRange(at, at + 1)) for at, node in enumerate(NODES))
        return Route(hops, NODES, SamplingParams(), UNDIVIDED, traced=True)

    def submit(self, prompt: int) -> None:
        request = GenerationRequest("r", tuple(range(prompt)), 9, SamplingParams(), traceparent=TRACEPARENT)
        self.traces.asked(request, self.now)

    def round(self, key: str, first: bool, pieces: int, times: list[tuple[float, float, float]], home: float) -> None:
        """A step goes round: for each hop the time of the link to it, of waiting there, and of computing."""
        steps = [
            Forward(key, at, at == pieces - 1, self.route if first and not at else None, np.zeros(1, np.int32))
            for at in range(pieces)
        ]
        for step in steps:
            self.traces.sent(step, self.now)
        for index, (node, (link, waited, computed)) in enumerate(zip(NODES, times, strict=True)):
            self.now += link
            off = self.off[node]
            worker = self.workers[node]
            for step in steps:
                worker.came(step, self.now + off)
            self.now += waited
            for step in steps:
                began = self.now
                self.now += computed
                worker.computed([Step(key, LayerRange(0, 1), step.position)], began + off, self.now + off)
                worker.leave(self.now + off)
            self.links[index] += link
            self.hops[node] += waited + computed * pieces
        self.now += home
        self.links[-1] += home
        self.traces.came(key, self.now)

    def end(self, key: str, why: str, silent: tuple[str, ...] = ()) -> None:
        self.traces.attempt_over(key, why, self.now)
        self.reports = [times for node in NODES if node not in silent for times in self.workers[node].over([key])]

    def report(self) -> None:
        for times in self.reports:
            self.traces.reported(times)


ROUND = st.tuples(st.lists(st.tuples(SHORT, SHORT, SHORT), min_size=3, max_size=3), SHORT)
OFF = st.fixed_dictionaries(dict.fromkeys(NODES, st.floats(-1000, 1000)))


def check(span: TimedSpan) -> None:
    assert span.stop_s >= span.start_s
    for child in span.children:
        assert span.start_s - 1e-6 <= child.start_s
        assert child.stop_s <= span.stop_s + 1e-6
        check(child)


@given(OFF, st.lists(ROUND, min_size=1, max_size=6), SHORT, SHORT, st.integers(1, 3), st.booleans())
def test_the_spans_of_a_request_are_what_it_went_through(
    off: dict[str, float], rounds: list, waited: float, own: float, pieces: int, knows_clocks: bool
) -> None:
    walk = Walk(off, now=5000.0, knows_clocks=knows_clocks)
    walk.submit(4)
    walk.now += waited
    for number, (times, home) in enumerate(rounds):
        walk.round("r/1", number == 0, pieces if number == 0 else 1, times, home)
        last = number == len(rounds) - 1
        walk.traces.delivered("r", TokenEvent(7, "length" if last else None), walk.now)
        if not last:
            walk.now += own
    walk.end("r/1", DONE)
    assert not walk.told, "workers haven't told yet"
    walk.report()
    ((parent, span),) = walk.told
    assert parent == TRACEPARENT
    check(span)
    leaves = list(span.leaves())
    assert sum(one.duration_s for one in leaves) == pytest.approx(span.duration_s, abs=1e-6)
    found: dict[str, float] = {}
    for leaf in leaves:
        found[leaf.name] = found.get(leaf.name, 0.0) + leaf.duration_s
    assert found["queue"] == pytest.approx(waited)
    assert found.get("coordinator", 0.0) == pytest.approx(own * (len(rounds) - 1), abs=1e-6)
    assert {node: found[f"hop {node}"] for node in NODES} == pytest.approx(walk.hops, abs=1e-6)
    ends = ["coordinator", *NODES, "coordinator"]
    links = [found[f"link {tail} → {head}"] for tail, head in pairwise(ends)]
    assert sum(links) == pytest.approx(sum(walk.links), abs=1e-6)
    if knows_clocks:
        assert links == pytest.approx(walk.links, abs=1e-6)
    attributes = span.attributes
    assert (attributes["gen_ai.usage.input_tokens"], attributes["gen_ai.usage.output_tokens"]) == (4, len(rounds))
    assert attributes["gen_ai.response.finish_reasons"] == ["length"]
    assert attributes["gen_ai.latency.time_in_queue"] == pytest.approx(waited)
    assert attributes["helix_df.attempts"] == 1


@given(OFF, ROUND, ROUND, SHORT, st.sampled_from(NODES))
def test_a_retry_is_another_attempt(off: dict[str, float], one: tuple, other: tuple, pause: float, gone: str) -> None:
    walk = Walk(off, now=5000.0)
    walk.submit(4)
    walk.round("r/1", True, 1, *one)
    walk.traces.delivered("r", TokenEvent(7), walk.now)
    walk.traces.sent(Forward("r/1", 5, True, None, np.zeros(1, np.int32)), walk.now)
    walk.now += pause
    walk.end("r/1", "lost", silent=(gone,))
    first = walk.reports
    walk.now += pause
    walk.round("r/2", True, 1, *other)
    walk.traces.delivered("r", TokenEvent(7, "length"), walk.now)
    walk.end("r/2", DONE)
    walk.reports += first
    walk.report()
    walk.traces.flush(walk.now + PATIENCE_S / 2)
    assert not walk.told, f"{gone} may still tell"
    walk.traces.flush(walk.now + PATIENCE_S)
    ((_, span),) = walk.told
    check(span)
    assert [part.name for part in span.children] == ["queue", "attempt 1", "queue", "attempt 2"]
    lost, waits, done = span.children[1:]
    assert (lost.error, waits.attributes, done.error) == ("lost", {"helix_df.after": "lost"}, None)
    assert not [leaf for leaf in lost.leaves() if leaf.name in (f"hop {gone}",) or leaf.name.startswith("link")]
    assert len([leaf for leaf in lost.leaves() if leaf.name.startswith("hop")]) == len(NODES) - 1
    assert len([leaf for leaf in done.leaves() if leaf.name.startswith("link")]) == len(NODES) + 1
    walk.traces.reported(HopTimes("r/1", gone, 0.0, HopSum(), HopSum()))
    assert len(walk.told) == 1, "whoever tells too late isn't heard"


def test_what_isnt_traced_leaves_nothing() -> None:
    walk = Walk(dict.fromkeys(NODES, 0.0))
    walk.traces.asked(GenerationRequest("r", (1,), 9, SamplingParams()), 0.0)
    plain = Forward("r/1", 0, True, None, np.zeros(1, np.int32))
    walk.traces.sent(plain, 0.0)
    walk.traces.came("r/1", 1.0)
    walk.traces.attempt_over("r/1", DONE, 1.0)
    walk.traces.delivered("r", TokenEvent(1, "stop"), 1.0)
    walk.workers["a"].came(plain, 0.0)
    assert walk.workers["a"].attempts == 0
    assert walk.workers["a"].over(["r/1"]) == []
    walk.traces.close(2.0)
    assert walk.told == []


def test_a_request_that_never_started_or_isnt_wanted_any_more_is_told() -> None:
    walk = Walk(dict.fromkeys(NODES, 0.0), now=10.0)
    walk.submit(4)
    walk.traces.over("r", 12.0, error="queue_full")
    walk.traces.flush(12.0)
    ((_, span),) = walk.told
    assert (span.error, span.duration_s, [part.name for part in span.children]) == ("queue_full", 2.0, ["queue"])
    walk = Walk(dict.fromkeys(NODES, 0.0), now=10.0)
    walk.submit(4)
    walk.round("r/1", True, 1, [(0.1, 0.1, 0.1)] * 3, 0.1)
    walk.traces.over("r", walk.now)
    walk.now += 0.5
    walk.end("r/1", "cancel")
    walk.report()
    ((_, span),) = walk.told
    check(span)
    assert (span.error, span.attributes["helix_df.cancelled"], span.stop_s) == (None, True, walk.now)
