"""Speeds by what batches took: random batches, restarts and looks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_df.rules.measured_speed import LEAST_BUSY_S, TOLERANCE, WINDOW_S, Busy, MeasuredSpeeds, differing

batches = st.lists(
    st.tuples(st.floats(0.1, 5.0), st.floats(0.0, 5.0), st.floats(0.05, 2.0), st.sampled_from((False,) * 9 + (True,))),
    min_size=1,
    max_size=80,
)
"""Looks: seconds since the last, those that batches took meanwhile, their speed, and whether the worker is new."""


@given(batches)
def test_a_speed_is_that_of_the_last_while_and_of_one_worker(
    looks: list[tuple[float, float, float, bool]],
) -> None:
    measured = MeasuredSpeeds()
    now, took, planned = 0.0, 0.0, 0.0
    history: list[tuple[float, float, float]] = []
    for pause, busy, speed, is_new in looks:
        now += pause
        if is_new and took > 0:
            took, planned, history = 0.0, 0.0, []
        else:
            took, planned = took + busy, planned + busy * speed
        history.append((now, took, planned))
        found = measured.look({"a": Busy(took, planned)}, now)
        before = [one for one in history if now - one[0] >= WINDOW_S]
        if not before or took - before[-1][1] < LEAST_BUSY_S:
            assert found == {}
        else:
            assert found["a"] == pytest.approx(min(1.0, (planned - before[-1][2]) / (took - before[-1][1])))
    assert measured.look({}, now) == {}


@given(st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_a_difference_is_one_either_way(speed: float, planned: float) -> None:
    differs = differing({"a": speed}, {"a": planned})
    assert differs == ({} if max(speed / planned, planned / speed) <= TOLERANCE * (1 - 1e-12) else differs)
    assert (differs == {"a": speed}) or max(speed / planned, planned / speed) <= TOLERANCE * (1 + 1e-12)
