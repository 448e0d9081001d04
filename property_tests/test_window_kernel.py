"""The compiled search for a range of layers finds the first of the best by trying all."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from helix_df.solvers.window_kernel import best_window

rates = st.integers(0, 20).map(float)


@given(st.data(), st.integers(1, 8), st.integers(-1, 8), st.integers(0, 9), rates, rates, st.booleans())
def test_the_best_window_is_the_first_that_fills_most(
    data: st.DataObject, width: int, enters: int, leaves: int, entry: float, leave: float, lacks: bool
) -> None:
    def numbers(size: int) -> np.ndarray:
        return np.array(data.draw(st.lists(rates, min_size=size, max_size=size)))

    missing, speed = numbers(width), numbers(data.draw(st.integers(1, width)))
    lacking, fit = (numbers(width), numbers(len(speed))) if lacks else (np.zeros(0), np.zeros(0))
    best, expected = -1.0, (0, 1)
    for count in range(1, len(speed) + 1):
        for first in range(width - count + 1):
            most = min(
                speed[count - 1],
                entry if first <= enters else np.inf,
                leave if first + count >= leaves else np.inf,
            )
            held = slice(first, first + count)
            gain = float(np.minimum(most, missing[held]).sum())
            if lacks:
                gain += float(np.minimum(fit[count - 1], lacking[held]).sum())
            if gain > best:
                best, expected = gain, (first, count)
    assert best_window(missing, speed, enters, entry, leaves, leave, lacking, fit) == expected
