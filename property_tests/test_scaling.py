"""The rule of nodes that come and go: random loads, ladders and targets."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, takewhile

from hypothesis import given
from hypothesis import strategies as st

from helix_df.plan.sizes import MOST_SIZES, size_of, sized, sizes, whole
from helix_df.rules.scaling import LOOK_S, LOWER, Look, Scaling
from helix_df.spec.job import Job
from helix_df.spec.scale import Scale

waits = st.lists(st.tuples(st.integers(1, 30), st.sampled_from((0.0, 0.4, 3.0)), st.integers(0, 400)), max_size=12)
"""Stretches of a load: looks, seconds that somebody waits, and tokens asked for a look."""

ladders = st.dictionaries(st.integers(0, 6), st.floats(1.0, 1000.0), min_size=1).map(
    lambda flows: dict(zip(sorted(flows), sorted(flows.values()), strict=True))
)
scales = st.builds(
    Scale,
    nodes=st.just(("a",)),
    queue_time=st.just("1s"),
    up_after=st.sampled_from(("1s", "4s")),
    down_after=st.sampled_from(("2s", "10s")),
    headroom=st.sampled_from((0.5, 1.0)),
    average_over=st.sampled_from(("3s", "20s")),
)


def looks(stretches: list[tuple[int, float, int]]) -> Iterator[Look]:
    asked, count = 0, 0
    for length, waited_s, tokens in stretches:
        for _ in range(length):
            asked, count = asked + tokens, count + 1
            yield Look(count * LOOK_S, asked, waited_s)


def asked_over(seen: list[Look], over_s: float) -> float:
    last = [one for one in seen if seen[-1].now - one.now <= over_s]
    return (last[-1].asked_tokens - last[0].asked_tokens) / over_s


def waits_since(seen: list[Look], scale: Scale, slow: bool) -> float:
    """For how long requests have waited too long, or haven't."""
    last = takewhile(lambda one: (one.waited_s > scale.queue_time) == slow, reversed(seen))
    return max((seen[-1].now - one.now for one in last), default=0.0)


@given(scales, ladders, waits, st.data())
def test_a_step_has_its_reason_and_is_enough_where_something_is(
    scale: Scale, serves: dict[int, float], stretches: list[tuple[int, float, int]], data: st.DataObject
) -> None:
    size = data.draw(st.sampled_from(sorted(serves)))
    scaling, seen = Scaling(scale), []
    for look in looks(stretches):
        seen.append(look)
        step = scaling.look(look, size, serves)
        if step is None:
            continue
        asked = {over_s: asked_over(seen, over_s) for over_s in (scale.average_over, scale.down_after)}
        if step.after > size:
            assert step.asked == asked[scale.average_over]
            assert step.asked > scale.headroom * serves[size] or waits_since(seen, scale, True) >= scale.up_after
            better = [one for one in serves if one > size and serves[one] > serves[size]]
            enough = [one for one in better if scale.headroom * serves[one] >= step.asked]
            assert step.after == min(enough, default=max(serves))
        else:
            assert step.asked == max(asked.values())
            assert waits_since(seen, scale, False) >= scale.down_after
            assert step.after == min(one for one in serves if LOWER * scale.headroom * serves[one] >= step.asked)
        size = step.after
        scaling.begin_anew()
        seen.clear()


@given(ladders, st.integers(0, 6))
def test_a_job_that_nobody_asks_comes_to_its_smallest_size(serves: dict[int, float], start: int) -> None:
    scale = Scale.model_validate({"nodes": ["a"], "down_after": "2s"})
    size, scaling = min(serves, key=lambda one: abs(one - start)), Scaling(scale)
    for look in looks([(10 * len(serves) + 10, 0.0, 0)]):
        if (step := scaling.look(look, size, serves)) is not None:
            size = step.after
            scaling.begin_anew()
    assert size == min(serves)


@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 40), st.booleans())
def test_sizes_are_nested_and_reach_from_the_fewest_to_the_most(
    count: int, least: int, more: int, avoids: bool
) -> None:
    least = min(least, count)
    most = min(count, max(1, least + more))
    job = Job.model_validate(
        {
            "model": {"source": "random:tiny"},
            "nodes": {"base": {"gpu": "L4"}, "spot": {"gpu": "L4", "count": count}},
            "links": {"default": {"bandwidth": "1Gbps"}},
            "limits": {"avoid": ["base"] if avoids else []},
            "scale": {"nodes": ["spot-*"], "min": least, "max": most},
        }
    )
    found = sizes(job)
    assert found[0] == least
    assert found[-1] == most
    assert list(found) == sorted(set(found))
    assert len(found) <= MOST_SIZES
    avoided = [set(sized(job, size).limits.avoid) for size in found]
    assert all(after < before for before, after in pairwise(avoided))
    for size in found:
        one = sized(job, size)
        assert size_of(one) == size
        assert whole(one) == whole(job) == job
        assert ("base" in one.limits.avoid) == avoids
