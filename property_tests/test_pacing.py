"""Emulated links: never faster than declared, in order, exact, and none in the way of another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_df.runtime.wire.pacing import Lane, PacedQueue
from helix_df.runtime.worker.paced_engine import Pace

times = st.floats(0, 10, allow_nan=False)
lanes = st.tuples(st.floats(1, 1e6), st.floats(0, 5))
# Seconds since the one before, lane, bytes.
sends = st.lists(st.tuples(times, st.integers(0, 2), st.integers(1, 100_000)), max_size=40)


def arrivals(lane: Lane, messages: list[tuple[float, int]]) -> list[float]:
    return [lane.carry(size, now) for now, size in messages]


def clocked(messages: list[tuple[float, int, int]]) -> list[tuple[float, int, int]]:
    now, found = 0.0, []
    for gap, lane, size in messages:
        now += gap
        found.append((now, lane, size))
    return found


@given(lanes, sends)
def test_no_stretch_of_time_carries_more_than_the_bandwidth_and_one_message(
    lane: tuple[float, float], messages: list[tuple[float, int, int]]
) -> None:
    rate, latency = lane
    timed = [(now, size) for now, _, size in clocked(messages)]
    there = arrivals(Lane(rate, latency), timed)
    assert there == sorted(there)
    for i in range(len(there)):
        carried = 0
        for j in range(i + 1, len(there)):
            carried += timed[j][1]
            assert carried <= rate * (there[j] - there[i]) * (1 + 1e-9) + 1e-6 * rate


@given(lanes, sends)
def test_a_message_waits_for_the_one_before_and_for_nothing_else(
    lane: tuple[float, float], messages: list[tuple[float, int, int]]
) -> None:
    rate, latency = lane
    timed = [(now, size) for now, _, size in clocked(messages)]
    road = Lane(rate, latency)
    free = 0.0
    for now, size in timed:
        free = max(free, now) + size / rate
        assert road.carry(size, now) == pytest.approx(free + latency)
    assert road.bytes == sum(size for _, size in timed)
    assert road.messages == len(timed)
    assert road.busy_s == pytest.approx(road.bytes / rate)


@given(st.lists(lanes, min_size=3, max_size=3), sends, st.lists(times, max_size=30))
def test_lanes_keep_their_order_and_never_touch_each_other(
    qualities: list[tuple[float, float]], messages: list[tuple[float, int, int]], looks: list[float]
) -> None:
    """The queue hands out what ``carry`` says of each lane alone, at the first look after its arrival."""
    timed = clocked(messages)
    queue: PacedQueue[tuple[int, int]] = PacedQueue()
    roads = [Lane(*quality) for quality in qualities]
    alone = [iter(arrivals(Lane(*q), [(t, s) for t, at, s in timed if at == i])) for i, q in enumerate(qualities)]
    due: dict[tuple[int, int], float] = {}
    got: list[tuple[int, int]] = []
    events = sorted([(now, 0, index) for index, (now, _, _) in enumerate(timed)] + [(look, 1, -1) for look in looks])
    for now, is_look, index in events:
        if is_look:
            got += take(queue, due, now)
            continue
        _, lane, size = timed[index]
        due[lane, index] = next(alone[lane])
        queue.put(roads[lane], size, (lane, index), now)
        assert queue.next_s() == min(at for key, at in due.items() if key not in got)
    got += take(queue, due, max(due.values(), default=0.0))
    assert queue.next_s() is None, "a message starves"
    for lane in range(3):
        assert [index for at, index in got if at == lane] == [i for i, (_, at, _) in enumerate(timed) if at == lane]


bulky = st.lists(st.tuples(times, st.booleans(), st.integers(1, 100_000)), max_size=40)
# Seconds since the one before, whether it is bulk, bytes.


def crossed(rate: float, messages: list[tuple[float, bool, int]]) -> tuple[list[tuple[float, int]], Lane]:
    """When each message, by its place, arrives over a link without latency, and the link."""
    lane, queue, now = Lane(rate, 0.0), PacedQueue[int](), 0.0
    there: list[tuple[float, int]] = []

    def look(until: float) -> None:
        while (due := queue.next_s()) is not None and due <= until:
            there.extend((due, index) for index in queue.arrived(due))

    for index, (gap, bulk, size) in enumerate(messages):
        now += gap
        look(now)
        queue.put(lane, size, index, now, bulk=bulk)
    look(float("inf"))
    return there, lane


@given(st.floats(1, 1e6), bulky)
def test_bulk_is_passed_but_nothing_else_is_and_nothing_is_lost(
    rate: float, messages: list[tuple[float, bool, int]]
) -> None:
    there, lane = crossed(rate, messages)
    assert sorted(index for _, index in there) == list(range(len(messages)))
    for kind in (True, False):
        mine = [index for _, index in there if messages[index][1] is kind]
        assert mine == sorted(mine)
    _, straight = crossed(rate, [(gap, False, size) for gap, _, size in messages])
    assert lane.busy_s == pytest.approx(straight.busy_s)
    assert lane.free_s == pytest.approx(straight.free_s), "the link rests although something waits"


@given(st.floats(1, 1e6), bulky)
def test_bulk_lets_pass_as_much_as_it_takes_itself_and_one_message_more(
    rate: float, messages: list[tuple[float, bool, int]]
) -> None:
    there, _ = crossed(rate, messages)
    order = [index for _, index in there]
    largest = max((size for _, bulk, size in messages if not bulk), default=0)
    bulk_before = -1
    for at, index in enumerate(order):
        if messages[index][1]:
            since = [other for other in order[bulk_before + 1 : at] if other > index]
            assert sum(messages[other][2] for other in since) < messages[index][2] + max(largest, 1)
            bulk_before = at


def test_a_decode_step_passes_what_waits_but_not_what_is_crossing() -> None:
    lane, queue = Lane(100.0, 0.5), PacedQueue[str]()
    for name in ("crossing", "first", "second"):
        queue.put(lane, 100, name, 0.0, bulk=True)
    queue.put(lane, 10, "step", 0.2)
    assert queue.next_s() == 1.5
    assert [queue.arrived(at) for at in (1.5, 1.6, 2.6, 3.6)] == [["crossing"], ["step"], ["first"], ["second"]]


# Seconds planned, share of that which the work takes, and how much too long the rest comes out, in shares of the plan.
pieces = st.lists(st.tuples(st.floats(0.001, 10), st.floats(0, 1), st.floats(0, 0.2)), min_size=1, max_size=60)


@given(pieces)
def test_pacing_never_drifts(work: list[tuple[float, float, float]]) -> None:
    """However long the rests really are, the clock is behind the plan by the last one's excess alone, never ahead."""
    pace, now, planned, late = Pace(), 0.0, 0.0, 0.0
    for planned_s, share, excess in work:
        wall_s = share * planned_s
        rest_s = pace.rest_s(planned_s, wall_s)
        slept_s = rest_s + excess * planned_s if rest_s > 0 else 0.0
        if rest_s > 0:
            pace.rested(slept_s)
        before = late
        now, planned = now + wall_s + slept_s, planned + planned_s
        late = now - planned
        assert late >= -1e-9 * planned
        assert late <= max(excess * planned_s, before - (planned_s - wall_s)) + 1e-9 * planned


@given(pieces, st.floats(1.0, 50.0))
def test_a_hold_up_is_made_good_by_one_piece_at_most(work: list[tuple[float, float, float]], hold_up: float) -> None:
    pace = Pace()
    for planned_s, share, _ in work:
        assert pace.rest_s(planned_s, (1 + hold_up) * planned_s) == 0
        assert pace.rest_s(planned_s, 0.0) == pytest.approx(0.0, abs=1e-9)
        again = pace.rest_s(planned_s, share * planned_s)
        assert again == pytest.approx((1 - share) * planned_s)
        pace.rested(again)


def take(queue: PacedQueue[tuple[int, int]], due: dict[tuple[int, int], float], now: float) -> list[tuple[int, int]]:
    arrived = queue.arrived(now)
    assert all(due[key] <= now for key in arrived)
    left = queue.next_s()
    assert left is None or left > now
    return arrived
