"""The shortest prompt goes first, but whoever waits is passed for a while only; by arrival nobody is passed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from helix_df.rules.fair_queue import FairQueue
from helix_df.rules.waiting_order import passed_for_s, waiting_rank

PROMPT = st.integers(1, 100_000)
GAP_S = st.sampled_from((0.0, 0.003, 0.25, 1.0, 7.5)) | st.floats(0, 1e4)
SERVED = st.lists(st.sampled_from(("came", "came", "started")), max_size=80)
EXACT_S = 1e-6
"""Of rounding: times are below 1e6 s."""


def started(gaps_s: list[tuple[float, int]], events: list[str], shortest_first: bool) -> list[tuple[float, int, float]]:
    """(arrival, prompt, start) of all who wait in a queue by rank, in the order in which they start."""
    queue, waiting, found, now_s = FairQueue(), {}, [], 0.0
    comes = iter(gaps_s)
    for number, event in enumerate([*events, *["started"] * len(gaps_s)]):
        if event == "came" and (one := next(comes, None)) is not None:
            gap_s, prompt = one
            now_s += gap_s
            name = f"r{number}"
            waiting[name] = (now_s, prompt)
            queue.join(name, None, prompt, waiting_rank(now_s, prompt, shortest_first))
        elif event == "started" and len(queue):
            arrived_s, prompt = waiting.pop(queue.take())
            found.append((arrived_s, prompt, now_s))
    assert not waiting
    return found


QUEUES = st.lists(st.tuples(GAP_S, PROMPT), max_size=40)


@given(QUEUES, SERVED, st.booleans())
def test_nobody_is_passed_by_who_came_later_than_its_bound(gaps_s, events, shortest_first):
    """So nothing starves, at whatever rate short prompts come."""
    order = started(gaps_s, events, shortest_first)
    for at, (arrived_s, prompt, _) in enumerate(order):
        for other_arrived_s, _, _ in order[:at]:
            assert other_arrived_s <= arrived_s + passed_for_s(prompt, shortest_first) + EXACT_S


@given(QUEUES, SERVED)
def test_in_order_of_arrival_nobody_is_passed(gaps_s, events):
    order = [arrived_s for arrived_s, _, _ in started(gaps_s, events, shortest_first=False)]
    assert order == sorted(order)


@given(st.lists(PROMPT, min_size=1, max_size=40), st.floats(0, 1e5))
def test_of_those_who_came_at_once_the_shortest_is_first(prompts, now_s):
    queue = FairQueue()
    for number, prompt in enumerate(prompts):
        queue.join(f"{number}", None, prompt, waiting_rank(now_s, prompt, True))
    order = [prompts[int(queue.take())] for _ in prompts]
    assert order == sorted(prompts)


@given(st.lists(st.tuples(st.booleans(), GAP_S, PROMPT), max_size=40))
def test_both_orders_wait_in_one_queue(comes):
    """A plan that takes over may have the other order: who came before or after still has its bound."""
    queue, now_s, waiting = FairQueue(), 0.0, {}
    for number, (shortest_first, gap_s, prompt) in enumerate(comes):
        now_s += gap_s
        queue.join(f"{number}", None, prompt, waiting_rank(now_s, prompt, shortest_first))
        waiting[f"{number}"] = (now_s, passed_for_s(prompt, shortest_first))
    order = [waiting[queue.take()] for _ in comes]
    for at, (arrived_s, bound_s) in enumerate(order):
        assert all(other_s <= arrived_s + bound_s + EXACT_S for other_s, _ in order[:at])
