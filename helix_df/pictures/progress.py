"""A search over time: best flow and best bound as an SVG, and the gap as one line of characters.

Owns the running best of what a search reported. Doesn't run searches: ``Watch`` hears them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from helix_df.pictures.layout import number
from helix_df.pictures.svg import Drawing, round_step, text_width
from helix_df.solvers.api import Incumbent

BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH, HEIGHT = 900.0, 360.0
LEFT, RIGHT, TOP, BOTTOM = 76.0, 190.0, 70.0, 48.0


@dataclass(frozen=True, slots=True)
class Moment:
    """The best flow and the best bound (tokens/s) known at a time (seconds since the search began)."""

    elapsed_s: float
    flow: float | None
    bound: float | None

    @property
    def gap(self) -> float | None:
        """``(bound − flow) / bound``; 1 without a flow, ``None`` without a bound."""
        if self.bound is None or self.bound <= 0:
            return None
        return max(0.0, self.bound - (self.flow or 0.0)) / self.bound


def history(incumbents: Sequence[Incumbent], bound: float | None = None) -> tuple[Moment, ...]:
    """The running best, in the order of time; ``bound`` is known from the start, if given."""
    moments = []
    flow: float | None = None
    for incumbent in sorted(incumbents, key=lambda incumbent: incumbent.elapsed_s):
        if incumbent.flow is not None:
            flow = incumbent.flow if flow is None else max(flow, incumbent.flow)
        if incumbent.bound is not None:
            bound = incumbent.bound if bound is None else min(bound, incumbent.bound)
        moments.append(Moment(incumbent.elapsed_s, flow, bound))
    return tuple(moments)


def sparkline(moments: Sequence[Moment], width: int = 30) -> str:
    """The gap over time in ``width`` characters, full height for 100%, a dot where it isn't known; with its ends."""
    if not moments:
        return "·" * width
    end = max(moments[-1].elapsed_s, 1e-9)
    cells = []
    for cell in range(width):
        gap = _at(moments, end * (cell + 1) / width)
        cells.append("·" if gap is None else BLOCKS[min(int(gap * len(BLOCKS)), len(BLOCKS) - 1)])
    known = [moment.gap for moment in moments if moment.gap is not None]
    ends = f" {known[0]:.1%} → {known[-1]:.1%}" if known else ""
    return f"{''.join(cells)}{ends} in {moments[-1].elapsed_s:.1f} s"


def _at(moments: Sequence[Moment], time_s: float) -> float | None:
    past = [moment for moment in moments if moment.elapsed_s <= time_s * (1 + 1e-9)]
    return past[-1].gap if past else None


def progress_svg(moments: Sequence[Moment], title: str) -> str:
    """Flow and bound over time as an SVG document that needs nothing else.

    Raises:
        ValueError: without a moment.
    """
    if not moments:
        raise ValueError("a search that reported nothing has no picture")
    chart = _Chart(max(moments[-1].elapsed_s, 1e-9), _top_of(moments))
    drawing = Drawing(WIDTH, HEIGHT, title)
    drawing.text(20, 32, title, "bold", 18)
    _axes(drawing, chart)
    _lines(drawing, chart, moments)
    _ends(drawing, chart, moments[-1])
    return drawing.done()


@dataclass(frozen=True, slots=True)
class _Chart:
    seconds: float
    most: float

    def x(self, seconds: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * seconds / self.seconds

    def y(self, flow: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(flow / self.most, 1.0)


def _top_of(moments: Sequence[Moment]) -> float:
    """Above the best flow and the last bound; a first bound may be so far off that it would flatten all else."""
    last = moments[-1]
    return 1.15 * max(last.flow or 0.0, last.bound or 0.0, 1e-9)


def _axes(drawing: Drawing, chart: _Chart) -> None:
    step = round_step(chart.most)
    for part in range(int(chart.most / step + 1e-9) + 1):
        flow = step * part
        drawing.line(LEFT, chart.y(flow), WIDTH - RIGHT, chart.y(flow), "grid" if part else "axis")
        drawing.text(LEFT - 8, chart.y(flow) + 4, f"{flow:,.10g}", "soft", 11, "end")
    step = round_step(chart.seconds)
    for part in range(int(chart.seconds / step + 1e-9) + 1):
        drawing.text(chart.x(step * part), HEIGHT - BOTTOM + 18, f"{step * part:,.10g}", "soft", 11, "middle")
    drawing.text(20, TOP - 14, "tokens/s", "soft", 11)
    drawing.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, "seconds", "soft", 11, "middle")


def _lines(drawing: Drawing, chart: _Chart, moments: Sequence[Moment]) -> None:
    flows = _steps(chart, [(moment.elapsed_s, moment.flow) for moment in moments])
    bounds = _steps(chart, [(moment.elapsed_s, moment.bound) for moment in moments])
    if flows and bounds:
        area = [*bounds, (bounds[-1][0], flows[-1][1]), *reversed(flows), (flows[0][0], chart.y(0))]
        if bounds[0][0] < flows[0][0]:
            area.append((bounds[0][0], chart.y(0)))
        drawing.add("path", "gap", d=f"{_path(area)} Z")
    if bounds:
        drawing.add("path", "bound", d=_path(bounds))
    if flows:
        drawing.add("path", "flow", d=_path(flows))


def _steps(chart: _Chart, values: Sequence[tuple[float, float | None]]) -> list[tuple[float, float]]:
    """Corners of a line that stays until the next value."""
    points: list[tuple[float, float]] = []
    for seconds, value in values:
        if value is not None:
            x, y = chart.x(seconds), chart.y(value)
            if points:
                points.append((x, points[-1][1]))
            points.append((x, y))
    if points:
        points.append((chart.x(chart.seconds), points[-1][1]))
    return points


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M " + " L ".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _ends(drawing: Drawing, chart: _Chart, last: Moment) -> None:
    """The last values beside the lines, moved apart where they would touch."""
    labels = []
    if last.bound is not None:
        labels.append((chart.y(last.bound), f"bound {number(last.bound)}", "soft"))
    if last.flow is not None:
        gap = f", gap {last.gap:.1%}" if last.gap is not None else ""
        labels.append((chart.y(last.flow), f"flow {number(last.flow)}{gap}", "bold"))
    if len(labels) == 2 and labels[1][0] - labels[0][0] < 16:
        middle = (labels[0][0] + labels[1][0]) / 2
        labels = [(middle - 8, *labels[0][1:]), (middle + 8, *labels[1][1:])]
    for y, label, look in labels:
        size = 12.0
        while text_width(label, size, bold=True) > RIGHT - 20 and size > 9:
            size -= 1
        drawing.text(WIDTH - RIGHT + 10, y + 4, label, look, size)
