"""The best that a layer's passes can be on a node, whatever is put into them: tokens/s of decode steps and of prompts.

Owns the step from the seconds of a layer (``profiles.timing``) to a short list of passes that no others beat. Doesn't
know placements, links or KV cache.

A pass over a layer's weights runs ``b`` decode steps and pieces of prompts. The steps take ``D(b)`` seconds, and a
piece of ``n`` tokens beside them at least ``max(0, P(b + n) − P(b))``, what they take together less what a prompt of
``b`` tokens takes; pieces that run on their own take ``P(n)`` each. Whatever the rules are, a pass with ``b`` steps
therefore takes at least

    T(b, n) = D(b) + max(0, P₋(b + n) − P₊(b))

for the ``n`` prompt tokens that ride, plus ``P(n)`` for every other piece. ``P₋(x)`` is the least ``P`` from ``x`` on,
``P₊(x)`` the most up to ``x``: both are ``P`` itself where it never falls, but measured curves do here and there.

What passes are worth is linear in steps/s ``b / T`` and prompt tokens/s ``n / T``, less what ``b`` requests hold
meanwhile. For one ``b`` both are ratios of linear functions of ``n`` between corners of ``P₋``, so the best ``n`` is a
corner: one on the upper hull of (``b / T``, ``n / T``), or none where prompts are worth nothing. A pass that takes
longer than the least has both rates lower in proportion, so what is positive is less. Pieces on their own add to a
pass's worth and time what a pass of prompts alone has, so that the mixture is never better than both (mediants).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from helix_df.graph.capacities import Floats
from helix_df.profiles.catalogue import Curve
from helix_df.profiles.timing import LayerTiming

EXACT = 512
"""Decode steps up to which every number of them is listed; beyond, ranges of them with the best of each."""

WIDTH = 1.02
"""Ratio of the ends of such a range."""

LEAST_S = 1e-12
"""No pass takes less: keeps rates finite where a job's curve begins at nothing."""

REMEMBERED = 256
"""Tables that are remembered: whoever plans asks for the same again."""


@dataclass(frozen=True, slots=True, eq=False)
class PassTable:
    """Passes with decode steps, one a row, and passes of prompts alone. Rates are those of one layer.

    Attributes:
        steps: fewest decode steps of the row's passes.
        steps_per_s: most decode steps/s.
        least_steps_per_s: fewest of them, at this speed; the same but for ranges.
        prompts_per_s: prompt tokens/s beside them.
        prompts_alone_per_s: most prompt tokens/s of passes without decode steps.
    """

    steps: Floats
    steps_per_s: Floats
    least_steps_per_s: Floats
    prompts_per_s: Floats
    prompts_alone_per_s: float


@lru_cache(maxsize=REMEMBERED)
def pass_table(timing: LayerTiming, most_steps: int, short_prompts: bool) -> PassTable:
    """The passes that are worth a look.

    Args:
        timing: seconds of a layer.
        most_steps: decode steps of a pass at most.
        short_prompts: whether there are prompts of one token, which run as decode steps do.
    """
    lows, highs = _ranges(most_steps)
    rows = [_riding(timing, float(low), float(high)) for low, high in zip(lows, highs, strict=True)]
    alone = max((x / max(y, LEAST_S) for x, y in timing.prefill if x > 0), default=0.0)
    if short_prompts:
        alone = max([alone, *((high + n) / s for high, row in zip(highs, rows, strict=True) for n, s in row)])
    flat = [
        (low, high / seconds, low / seconds, tokens / seconds)
        for low, high, row in zip(lows, highs, rows, strict=True)
        for tokens, seconds in _hull(row, float(high))
    ]
    steps, rates, least_rates, prompts = np.array(flat, dtype=np.float64).reshape(-1, 4).T
    return PassTable(steps, rates, least_rates, prompts, float(alone))


def _ranges(most: int) -> tuple[list[int], list[int]]:
    """Ends of ranges that hold every number of steps from 1 to ``most``."""
    lows, highs, low = [], [], 1
    while low <= most:
        high = low if low <= EXACT else min(most, int(low * WIDTH))
        lows.append(low)
        highs.append(high)
        low = high + 1
    return lows, highs


def _riding(timing: LayerTiming, low: float, high: float) -> list[tuple[float, float]]:
    """Prompt tokens beside ``low`` to ``high`` steps, from none on, and the least seconds that they take together."""
    prompts, steps = _rising(timing.prefill), _rising(timing.decode)
    alone_s = timing.decode_s(low) if low == high else _value(steps, low)
    covered_s = max([timing.prefill_s(high), *(y for x, y in timing.prefill if x <= high)])
    free = _reach(prompts, covered_s) - low
    tokens = [0.0, *sorted({n for n in (free, *(x - low for x, _ in prompts)) if n > 0})]
    return [(n, max(LEAST_S, alone_s + max(0.0, _value(prompts, low + n) - covered_s))) for n in tokens]


def _hull(passes: list[tuple[float, float]], steps: float) -> list[tuple[float, float]]:
    """Of (prompt tokens, seconds) those on the upper hull of steps/s and prompt tokens/s, and the one without any."""
    points = sorted((steps / seconds, tokens / seconds, tokens, seconds) for tokens, seconds in passes)
    hull: list[tuple[float, float, float, float]] = []
    for point in points:
        while hull and hull[-1][0] == point[0] and hull[-1][1] <= point[1]:
            hull.pop()
        while len(hull) > 1 and _turns_left(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    kept = {(tokens, seconds) for _, _, tokens, seconds in hull}
    return sorted({passes[0], *kept})


def _turns_left(a: tuple[float, ...], b: tuple[float, ...], c: tuple[float, ...]) -> bool:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]) >= 0


@lru_cache(maxsize=REMEMBERED)
def _rising(curve: Curve) -> Curve:
    """The largest curve below this one that never falls: at ``x`` the least from ``x`` on."""
    points = [curve[-1]]
    for (x0, y0), (x1, y1) in zip(curve[-2::-1], curve[:0:-1], strict=True):
        least = points[-1][1]
        if y0 >= least:
            points.append((x0, least))
        else:
            if y1 > least:
                points.append((x0 + (x1 - x0) * (least - y0) / (y1 - y0), least))
            points.append((x0, y0))
    return tuple(points[::-1])


def _value(curve: Curve, x: float) -> float:
    return LayerTiming(curve, curve).prefill_s(x)


def _reach(rising: Curve, value: float) -> float:
    """The largest ``x`` where the curve is at most ``value``; 0 if it is more everywhere."""
    last_x, last_y = rising[-1]
    if value >= last_y:
        return last_x * value / last_y if last_y > 0 else last_x
    reach = 0.0
    for (x0, y0), (x1, y1) in pairwise(rising):
        if y1 <= value:
            reach = x1
        elif y0 <= value:
            reach = x0 + (x1 - x0) * (value - y0) / (y1 - y0)
    return reach
