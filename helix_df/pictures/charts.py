"""Charts as SVG: curves over a linear or logarithmic axis, and a map of shares over time.

Owns scales, ticks and the geometry. Doesn't know what is measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from helix_df.pictures.svg import Drawing, round_step, shortened, text_width

WIDTH, HEIGHT = 440.0, 264.0
LEFT, RIGHT, TOP, BOTTOM = 54.0, 14.0, 54.0, 40.0
LABEL = 12.0
LEVELS = 20
"""Shades of a map."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Points from left to right. ``faint`` ones are dashed: what goes along with another curve of that colour."""

    name: str
    colour: str
    points: tuple[tuple[float, float], ...]
    faint: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """From ``low`` to ``high``; ``log`` needs both above 0. ``percent`` values are shares."""

    label: str
    low: float
    high: float
    log: bool = False
    percent: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, 0 to 1; values beyond an end lie at it."""
        if self.log:
            low, high, value = math.log(self.low), math.log(self.high), math.log(max(value, self.low))
        else:
            low, high = self.low, self.high
        return min(max((value - low) / (high - low), 0.0), 1.0)

    def ticks(self) -> list[float]:
        """Round values on the axis."""
        if self.log:
            return _log_ticks(self.low, self.high)
        step = round_step(self.high - self.low)
        first = math.ceil(self.low / step - 1e-9)
        return [step * i for i in range(first, int(self.high / step + 1e-9) + 1)]

    def say(self, value: float) -> str:
        """A value as its tick says it."""
        return f"{value:.0%}" if self.percent else f"{value:,.10g}"


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, … or only powers of ten where those would crowd the axis."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [tick for power in powers for factor in factors if low <= (tick := factor * 10.0**power) <= high]
        if len(ticks) <= 8:
            break
    return ticks


def chart(title: str, x: Axis, y: Axis, curves: Sequence[Curve], shade_until: float | None = None) -> Drawing:
    """Curves over two axes; what lies before ``shade_until`` on the x axis is shaded."""
    drawing = Drawing(WIDTH, HEIGHT, title)
    drawing.text(LEFT - 40, 20, title, "bold", 14)
    if shade_until is not None and x.place(shade_until) > 0:
        width = (WIDTH - LEFT - RIGHT) * x.place(shade_until)
        drawing.add("rect", "stripe", x=LEFT, y=TOP, width=width, height=HEIGHT - TOP - BOTTOM)
    _axes(drawing, x, y)
    if not any(curve.points for curve in curves):
        drawing.text(
            (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2, "nothing came to this", "soft", 13, "middle"
        )
    for curve in sorted(curves, key=lambda curve: not curve.faint):
        if curve.points:
            _curve(drawing, x, y, curve)
    return drawing


def _axes(drawing: Drawing, x: Axis, y: Axis) -> None:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for tick in y.ticks():
        height = _y(y, tick)
        drawing.line(LEFT, height, right, height, "grid")
        drawing.text(LEFT - 7, height + 4, y.say(tick), "soft", LABEL, "end")
    free = 0.0
    for tick in x.ticks():
        place, word = _x(x, tick), x.say(tick)
        drawing.line(place, bottom, place, bottom + 4, "axis")
        half = text_width(word, LABEL) / 2
        if place - half >= free:
            drawing.text(min(place, WIDTH - half), bottom + 17, word, "soft", LABEL, "middle")
            free = place + half + 6
    drawing.line(LEFT, bottom, right, bottom, "axis")
    drawing.text(LEFT - 40, TOP - 16, y.label, "soft", LABEL)
    drawing.text(right, HEIGHT - 6, x.label, "soft", LABEL, "end")


def _x(axis: Axis, value: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * axis.place(value)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * axis.place(value)


def _curve(drawing: Drawing, x: Axis, y: Axis, curve: Curve) -> None:
    path = "M " + " L ".join(f"{_x(x, a):.1f} {_y(y, b):.1f}" for a, b in curve.points)
    look = {"stroke_dasharray": "3 4", "stroke_width": 1.5} if curve.faint else {"stroke_width": 2.0}
    line = drawing.add("path", d=path, fill="none", stroke=curve.colour, stroke_linejoin="round", **look)
    drawing.tip(line, curve.name)


@dataclass(frozen=True, slots=True)
class Strip:
    """A row of a map: shares 0 to 1 over equal steps of time."""

    name: str
    shares: tuple[float, ...]


def share_map(title: str, strips: Sequence[Strip], x: Axis, colour: str) -> Drawing:
    """Rows whose colour deepens with their share; as wide as a placement's picture."""
    row, top = 16.0, 42.0
    left = 20 + max((text_width(shortened(strip.name), LABEL) for strip in strips), default=0.0)
    width, height = 1120.0, top + row * len(strips) + 40
    drawing = Drawing(width, height, title)
    drawing.text(8, 20, title, "bold", 14)
    for place, strip in enumerate(strips):
        y = top + row * place
        drawing.text(left - 8, y + 12, shortened(strip.name), "", LABEL, "end")
        drawing.add("rect", "empty", x=left, y=y + 1, width=width - left - 14, height=row - 2)
        cell = (width - left - 14) / max(len(strip.shares), 1)
        for first, last, level in _runs(strip.shares):
            box = drawing.add(
                "rect", x=left + cell * first, y=y + 1, width=cell * (last - first), height=row - 2, fill=colour,
                fill_opacity=f"{level / LEVELS:.2f}",
            )  # fmt: skip
            drawing.tip(box, f"{strip.name}: about {level / LEVELS:.0%}")
    bottom = top + row * len(strips)
    for tick in x.ticks():
        at = left + (width - left - 14) * x.place(tick)
        drawing.line(at, bottom, at, bottom + 5, "axis")
        drawing.text(at, bottom + 18, x.say(tick), "soft", LABEL, "middle")
    drawing.text(width - 14, bottom + 34, x.label, "soft", LABEL, "end")
    return drawing


def _runs(shares: Sequence[float]) -> list[tuple[int, int, int]]:
    """Neighbours of one shade as (first, after the last, shade); the palest is left out."""
    runs: list[tuple[int, int, int]] = []
    for place, share in enumerate(shares):
        level = round(min(max(share, 0.0), 1.0) * LEVELS)
        if runs and runs[-1][1:] == (place, level):
            runs[-1] = (runs[-1][0], place + 1, level)
        else:
            runs.append((place, place + 1, level))
    return [run for run in runs if run[2] > 0]
