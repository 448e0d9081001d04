"""A job is to do without nodes that are lost for long, until they are back for good; flapping changes little."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from helix_df.runtime.jobs.losses import LONGEST_STAY_S, Losses

AFTER_S = 10.0


def look(losses: Losses, now: float, without: frozenset[str] = frozenset(), **states):
    return losses.look(states, without, AFTER_S, now)


def test_a_node_that_is_lost_for_long_is_done_without_and_relied_on_again_once_it_has_stayed():
    losses = Losses()
    assert look(losses, 0.0, a="ready", b="ready") is None
    assert look(losses, 1.0, a="ready", b="lost") is None
    assert look(losses, 9.0, a="ready", b="lost") is None
    assert look(losses, 10.0, a="ready", b="lost") == {"b"}
    losses.done({"b"}, ())
    without = frozenset({"b"})
    assert look(losses, 11.0, without, a="ready", b="lost") is None
    assert look(losses, 20.0, without, a="ready", b="ready") is None
    assert look(losses, 25.0, without, a="ready", b="failed") is None
    assert look(losses, 26.0, without, a="ready", b="ready") is None
    assert look(losses, 35.0, without, a="ready", b="ready") is None
    assert look(losses, 36.0, without, a="ready", b="ready") == frozenset()


def test_who_starts_again_by_itself_or_loads_for_long_is_not_done_without():
    losses = Losses()
    look(losses, 0.0, a="ready")
    assert look(losses, 1.0, a="failed") is None
    assert look(losses, 6.0, a="joined") is None
    assert look(losses, 500.0, a="loading") is None
    assert look(losses, 501.0, a="ready") is None
    assert look(losses, 502.0, a="failed") is None


def test_who_ends_each_time_that_it_loads_is_done_without():
    losses = Losses()
    look(losses, 0.0, a="ready")
    assert look(losses, 1.0, a="failed") is None
    assert look(losses, 9.0, a="loading") is None
    assert look(losses, 12.0, a="failed") == {"a"}


def test_what_no_plan_mends_is_asked_once_while_it_is_so():
    losses = Losses()
    look(losses, 0.0, a="ready", b="ready", c="ready")
    assert look(losses, 10.0, a="lost", b="ready", c="ready") == {"a"}
    losses.give_up(frozenset({"a"}))
    assert look(losses, 99.0, a="lost", b="ready", c="ready") is None
    assert look(losses, 109.0, a="lost", b="lost", c="ready") == {"a", "b"}
    losses.give_up(frozenset({"a", "b"}))
    assert look(losses, 110.0, a="lost", b="ready", c="ready") is None
    assert look(losses, 111.0, a="ready", b="ready", c="ready") is None
    assert look(losses, 121.0, a="lost", b="ready", c="ready") == {"a"}


@given(st.lists(st.tuples(st.floats(1, 2_000), st.floats(1, 2_000)), min_size=20, max_size=200))
def test_a_node_that_comes_and_goes_changes_the_plan_ever_more_rarely(turns):
    losses, now, without, changes = Losses(), 0.0, frozenset(), 0
    for up_s, down_s in turns:
        for state, lasts_s in (("ready", up_s), ("lost", down_s)):
            for _ in range(2):
                wanted = look(losses, now, without, a=state)
                if wanted is not None:
                    losses.done(wanted, without)
                    changes, without = changes + 1, wanted
                now += lasts_s / 2
    # Each stay must be twice as long as the one before, up to the longest.
    lasting = [losses.stay_s("a", AFTER_S), LONGEST_STAY_S]
    assert min(lasting) == min(LONGEST_STAY_S, AFTER_S * 2 ** max(0, (changes + 1) // 2 - 1))
    assert changes <= 2 * (11 + now / LONGEST_STAY_S)
