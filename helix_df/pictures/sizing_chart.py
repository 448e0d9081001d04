"""Cost against goodput as an SVG: the cheapest fleets of all offers and of each type alone, above what none is below.

Owns the layout. Every number comes from the curve.
"""

from __future__ import annotations

from collections.abc import Sequence

from helix_df.pictures.charts import Axis
from helix_df.pictures.svg import COLOURS, Drawing, shortened, text_width
from helix_df.sizing import CostCurve, CostPoint

WIDTH, HEIGHT = 900.0, 440.0
LEFT, RIGHT, TOP, BOTTOM = 64.0, 190.0, 90.0, 52.0
LABEL = 12.0
GAP = 16.0
"""Pixels between two labels at the right end."""

HEADROOM = 1.08


def sizing_svg(curve: CostCurve) -> str:
    """The curve as an SVG document that needs nothing else."""
    frame = _ChartFrame(curve)
    drawing = Drawing(WIDTH, HEIGHT, curve.title)
    drawing.text(20, 30, shortened(curve.title, 90), "bold", 16)
    drawing.text(20, 50, f"chosen: {shortened(curve.chosen.fleet, 80)}, {curve.chosen.cost:,.2f} an hour", "soft", 13)
    _axes(drawing, frame)
    _bound(drawing, frame, curve.bound)
    for place, points in enumerate(curve.alone.values()):
        _series(drawing, frame, points, COLOURS[1 + place % (len(COLOURS) - 1)], 1.5, 3.0)
    _series(drawing, frame, curve.all_offers, COLOURS[0], 2.5, 4.0)
    ring = drawing.add(
        "circle", cx=frame.x(curve.chosen.goodput), cy=frame.y(curve.chosen.cost), r=8, fill="none", stroke=COLOURS[0],
        stroke_width=2,
    )  # fmt: skip
    drawing.tip(ring, f"chosen: {curve.chosen.fleet}, {curve.chosen.cost:,.2f} an hour")
    _labels(drawing, frame, curve)
    return drawing.done()


class _ChartFrame:
    """Where goodput and cost lie. The highest series may leave the picture: what is cheap should be seen."""

    def __init__(self, curve: CostCurve) -> None:
        served = [point for points in (curve.all_offers, *curve.alone.values()) for point in points]
        most = max([point.goodput for point in served] + [x for x, _ in curve.bound])
        high = max(point.cost for point in served)
        self.goodput = Axis("generated tokens/s within the limits (goodput)", 0.0, most * 1.02)
        self.cost = Axis("cost an hour", 0.0, high * HEADROOM)

    def x(self, goodput: float) -> float:
        """Pixels from the left."""
        return LEFT + (WIDTH - LEFT - RIGHT) * self.goodput.place(goodput)

    def y(self, cost: float) -> float:
        """Pixels from the top."""
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * self.cost.place(cost)


def _axes(drawing: Drawing, frame: _ChartFrame) -> None:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for tick in frame.cost.ticks():
        drawing.line(LEFT, frame.y(tick), right, frame.y(tick), "grid")
        drawing.text(LEFT - 8, frame.y(tick) + 4, frame.cost.say(tick), "soft", LABEL, "end")
    for tick in frame.goodput.ticks():
        drawing.line(frame.x(tick), bottom, frame.x(tick), bottom + 5, "axis")
        drawing.text(frame.x(tick), bottom + 19, frame.goodput.say(tick), "soft", LABEL, "middle")
    drawing.line(LEFT, bottom, right, bottom, "axis")
    drawing.text(20, TOP - 14, frame.cost.label, "soft", LABEL)
    drawing.text((LEFT + right) / 2, HEIGHT - 12, frame.goodput.label, "soft", LABEL, "middle")


def _bound(drawing: Drawing, frame: _ChartFrame, bound: Sequence[tuple[float, float]]) -> None:
    if len(bound) > 1:
        line = drawing.add("path", "bound", d=_path([(frame.x(x), frame.y(y)) for x, y in bound]))
        drawing.tip(line, "no fleet of these offers costs less")


def _series(
    drawing: Drawing, frame: _ChartFrame, points: Sequence[CostPoint], colour: str, width: float, radius: float
) -> None:
    places = [(frame.x(point.goodput), frame.y(point.cost)) for point in points]
    if len(places) > 1:
        drawing.add("path", d=_path(places), fill="none", stroke=colour, stroke_width=width, stroke_linejoin="round")
    for point, (x, y) in zip(points, places, strict=True):
        dot = drawing.add("circle", cx=x, cy=y, r=radius, fill=colour)
        drawing.tip(dot, f"{point.fleet}: {point.cost:,.2f} an hour for {point.goodput:,.0f} generated tokens/s")


def _labels(drawing: Drawing, frame: _ChartFrame, curve: CostCurve) -> None:
    """Names at the right ends, moved apart where they would touch."""
    ends = [("all offers", COLOURS[0], curve.all_offers[-1:])]
    ends += [(name, COLOURS[1 + i % (len(COLOURS) - 1)], one[-1:]) for i, (name, one) in enumerate(curve.alone.items())]
    labels = [(frame.y(last.cost), name, colour) for name, colour, points in ends for last in points]
    if curve.bound:
        labels.append((frame.y(curve.bound[-1][1]), "lower bound", ""))
    below = HEIGHT - BOTTOM + GAP / 2
    for y, name, colour in sorted(labels, key=lambda label: (-label[0], label[1])):
        y = min(y, below - GAP)
        below = y
        text = shortened(name, 22)
        while text_width(text, LABEL) > RIGHT - 30 and len(text) > 8:
            text = shortened(text, len(text) - 2)
        label = drawing.text(
            WIDTH - RIGHT + 12, y + 4, text, "" if colour else "soft", LABEL, bold=name == "all offers"
        )
        if colour:
            label.set("style", f"fill: {colour}")


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M " + " L ".join(f"{x:.1f} {y:.1f}" for x, y in points)
