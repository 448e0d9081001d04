"""The queue is a plain one for one key, and takes turns between several by what each has been given."""

from __future__ import annotations

from collections import Counter, deque

from hypothesis import given
from hypothesis import strategies as st

from helix_df.rules.fair_queue import FairQueue, key_may_wait

COST = st.integers(1, 1000)


@given(st.lists(st.tuples(st.sampled_from(("join", "first", "again", "take", "remove")), COST, st.integers(0, 50))))
def test_with_one_key_it_is_a_plain_queue(steps):
    fair, plain = FairQueue(), deque[str]()
    for number, (what, cost, which) in enumerate(steps):
        name = f"r{number}"
        match what:
            case "join":
                fair.join(name, None, cost)
                plain.append(name)
            case "first" | "again" if what == "again" or not plain:
                # Who hasn't been started goes to the head behind nobody but those who have.
                fair.join_first(name, None, 0.0 if what == "again" else cost)
                plain.appendleft(name)
            case "take" if plain:
                assert fair.head() == plain[0]
                assert fair.take() == plain.popleft()
            case "remove" if plain:
                gone = plain[which % len(plain)]
                fair.remove([gone, "nobody"])
                plain.remove(gone)
            case _:
                pass
        assert list(fair) == list(plain)
        assert len(fair) == len(plain) == fair.count(None)


@given(st.lists(st.lists(COST, min_size=1, max_size=40), min_size=2, max_size=5), st.booleans())
def test_keys_that_wait_get_the_same_within_one_request_of_each(costs, cheap_first):
    queue, given_to = FairQueue(), Counter[str]()
    sizes = {f"k{key}": sizes for key, sizes in enumerate(costs)}
    waiting = {key: list(enumerate(line)) for key, line in sizes.items()}
    for name, line in waiting.items():
        for number, cost in line:
            queue.join(f"{name}/{number}", name, cost, float(cost) if cheap_first else 0.0)
    while all(queue.count(key) for key in sizes):
        key, _, place = queue.take().partition("/")
        given_to[key] += sizes[key][int(place)]
        totals = [given_to[one] for one in sizes]
        assert max(totals) - min(totals) <= max(map(max, costs))


@given(
    st.lists(st.lists(COST, min_size=30, max_size=30), min_size=1, max_size=4), st.integers(0, 25), st.integers(1, 9999)
)
def test_one_request_waits_for_one_of_each_other_key_whatever_it_costs(costs, taken, cost):
    queue = FairQueue()
    for key, line in enumerate(costs):
        for number, one in enumerate(line):
            queue.join(f"{key}/{number}", str(key), one)
    for _ in range(taken):
        queue.take()
    queue.join("late", "late", cost)
    before = Counter[str]()
    while (name := queue.take()) != "late":
        before[name.split("/")[0]] += 1
    assert max(before.values(), default=0) <= 1


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=40))
def test_within_a_key_the_lowest_rank_goes_first_and_of_equals_who_came_first(comes):
    queue = FairQueue()
    for number, (rank, is_new) in enumerate(comes):
        if is_new:
            queue.join(f"{number}", "a", 1, float(rank))
        else:
            queue.join_first(f"{number}", "a")
    new = [number for number, (_, is_new) in enumerate(comes) if is_new]
    back = [number for number, (_, is_new) in enumerate(comes) if not is_new]
    order = [*reversed(back), *sorted(new, key=lambda number: comes[number][0])]
    assert list(queue) == [f"{number}" for number in order]
    assert [queue.take() for _ in order] == [f"{number}" for number in order]


@given(st.integers(1, 5), st.lists(st.sampled_from("abc"), max_size=40))
def test_those_who_were_started_before_go_first_whatever_their_keys_are(others, again):
    queue = FairQueue()
    for number in range(others):
        queue.join(f"new{number}", "a", 1)
    for number, key in enumerate(again):
        queue.join_first(f"again{number}", key)
    assert [queue.take() for _ in again] == [f"again{number}" for number in reversed(range(len(again)))]


@given(st.integers(1, 50), st.lists(st.sampled_from("abcd"), max_size=200))
def test_no_key_fills_the_queue_alone_and_each_has_a_place(max_queue, comes):
    waiting = Counter[str]()
    for key in comes:
        total = sum(waiting.values())
        if total < max_queue and key_may_wait(waiting[key], total, max_queue):
            waiting[key] += 1
        assert waiting[key] <= (max_queue + 1) // 2 or len(+waiting) > 1
        newcomer = sum(waiting.values()) >= max_queue or key_may_wait(0, sum(waiting.values()), max_queue)
        assert newcomer
