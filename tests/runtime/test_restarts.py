"""Workers that end are started again: soon, later each time, and soon again after long service."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from helix_df.runtime.coordinator.restarts import FIRST_S, LONGEST_S, STEADY_S, Restarts


@given(st.lists(st.floats(0, 2 * STEADY_S), min_size=1, max_size=30))
def test_back_off(lives_s):
    restarts, now, quick = Restarts(), 0.0, 0
    for number, life_s in enumerate(lives_s, start=1):
        restarts.started("a", now)
        began, now = now, now + life_s
        quick = 1 if now - began >= STEADY_S else quick + 1
        wait_s = restarts.ended("a", now)
        assert wait_s == min(LONGEST_S, FIRST_S * 2 ** (quick - 1))
        assert restarts.due(now + 0.99 * wait_s) == []
        now += wait_s
        assert restarts.due(now) == ["a"]
        assert restarts.due(now) == []
        assert restarts.counts["a"] == number
