"""Rates and latencies by what crosses a link anyway: random bundles, clocks and receivers that look late."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from helix_df.graph.problem import Link
from helix_df.rules.measured_links import (
    LARGE,
    LATENCY_NOISE_S,
    LEAST_BUNDLES,
    MOST_BUSY,
    NOISE_S,
    TOLERANCE,
    WINDOW_S,
    LinkMeter,
    LinkSeen,
    LinkSpeed,
    MeasuredLinks,
    differing,
    is_news,
)
from helix_df.runtime.wire.pacing import Lane

SMALL = 500
RATES = st.floats(1e4, 1e10)
SIZES, LATE_S = st.sampled_from((SMALL, 700, 3_000, 20_000, 400_000)), st.sampled_from((0.0,) * 4 + (0.01,))
bundles = st.lists(st.tuples(st.floats(0.0, 0.05), SIZES, LATE_S), min_size=LEAST_BUNDLES, max_size=60)
"""Seconds since the last, bytes, and how much later than it arrived it is noticed."""


@given(RATES, st.floats(0.0, 0.1), st.floats(-1e6, 1e6), bundles)
def test_a_rate_is_what_the_link_does_or_a_little_less(
    rate: float, latency_s: float, apart_s: float, sent: list[tuple[float, int, float]]
) -> None:
    """The first, small one crosses alone; none behind it is smaller."""
    lane, meter, now = Lane(rate, latency_s), LinkMeter(), 0.0
    meter.note(SMALL, now, lane.carry(SMALL, now) + apart_s, at_once=True)
    before, now = meter.seen("a"), now + SMALL / rate + 1.0
    for pause_s, size, late_s in sent:
        now += pause_s
        meter.note(size, now, lane.carry(size, now) + apart_s + late_s, at_once=not late_s)
    seen = meter.seen("a")
    assert before is not None
    assert seen is not None
    assume(lane.free_s < WINDOW_S / 2)
    rounding_s = 1e-9 * (1 + abs(apart_s))
    assert seen.lead_s == pytest.approx(latency_s + SMALL / rate + apart_s, abs=rounding_s)
    large = [size for _, size, late_s in sent if size >= LARGE * SMALL and not late_s]
    assert seen.bundles <= len(large)
    if all(not late_s for *_, late_s in sent):
        assert seen.bundles == len(large)
    if seen.bundles:
        spent_s = seen.large_bytes / rate
        assert spent_s - seen.bundles * rounding_s <= seen.crossing_s
        assert seen.crossing_s <= spent_s * LARGE / (LARGE - 1) + seen.bundles * rounding_s


def test_another_clock_is_another_sender() -> None:
    meter = LinkMeter()
    for at in range(10):
        meter.note(SMALL if at % 2 else 100_000, at, at + 1.0, at_once=True)
    assert meter.seen("a") is not None
    meter.note(SMALL, 1e6, 11.0, at_once=True)
    assert meter.seen("a") == LinkSeen("a", 11.0 - 1e6, SMALL)


def test_what_was_quickest_long_ago_is_forgotten() -> None:
    meter = LinkMeter()
    meter.note(SMALL, 0.0, 1.0, at_once=True)
    for at in range(1, 4):
        meter.note(SMALL, at * WINDOW_S, at * WINDOW_S + 2.0, at_once=True)
    seen = meter.seen("a")
    assert seen is not None
    assert seen.lead_s == 2.0


@given(st.integers(0, 20), RATES, st.floats(0.0, 0.2), st.none() | st.floats(-1e3, 1e3))
def test_what_is_told_is_of_the_last_while(each: int, rate: float, latency_s: float, apart_s: float | None) -> None:
    links, ends = MeasuredLinks(), ("a", "b")
    for look in range(int(WINDOW_S) + 1):
        many = each * look
        seen = LinkSeen("a", latency_s + (apart_s or 0.0), 0, many, 10_000 * many, 10_000 * many / rate)
        found = links.look({ends: seen}, {} if apart_s is None else {ends: apart_s}, float(look))
        assert bool(found) == (look >= WINDOW_S)
    link = found[ends]
    assert (link.bytes_per_s is None) == (each * WINDOW_S < LEAST_BUNDLES)
    if link.bytes_per_s is not None:
        assert link.bytes_per_s == pytest.approx(rate)
    busy = 10_000 * each / rate
    assume(abs(busy - MOST_BUSY) > 1e-6)
    is_free = busy < MOST_BUSY if link.bytes_per_s is not None else not each
    if apart_s is None or not is_free:
        assert link.latency_s is None
    else:
        assert link.latency_s == pytest.approx(latency_s, abs=1e-9)
    assert links.look({}, {}, 100.0) == {}


@given(RATES, RATES, RATES, st.floats(1e3, 1e7))
def test_a_link_differs_by_more_than_a_bound_and_than_noise(
    measured: float, planned: float, declared: float, mean: float
) -> None:
    ends, plan = ("a", "b"), Link(planned, 0.001, "int8")
    found = differing({ends: LinkSpeed(measured, mean)}, {ends: plan}, {ends: Link(declared, 0.001)})
    rate = min(measured, declared)
    slower = planned / rate > TOLERANCE and mean / rate - mean / planned > NOISE_S
    if slower or rate / planned > TOLERANCE:
        assert found in ({ends: Link(rate, 0.001, "int8")}, {})
        if found:
            assert not is_news(found, found)
            assert is_news(found, {})
    else:
        assert found == {}


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_so_does_a_latency(measured: float, planned: float) -> None:
    ends = ("a", "b")
    plan = {ends: Link(1e9, planned)}
    found = differing({ends: LinkSpeed(latency_s=measured)}, plan, {ends: Link(1e9, 0.0)})
    longer = measured > TOLERANCE * planned + LATENCY_NOISE_S
    shorter = planned > TOLERANCE * measured + LATENCY_NOISE_S
    assert found == ({ends: Link(1e9, measured)} if longer or shorter else {})
