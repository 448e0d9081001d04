"""A plan as SVG: layers to the right, a row a node, traffic as wires where it changes hands, use beside each row.

Owns the geometry of the picture. What it shows is ``layout``'s; how elements are written is ``svg``'s.
"""

from __future__ import annotations

from dataclasses import dataclass

from helix_df.pictures.layout import Layout, PlanRow, Wire, lay_out, number
from helix_df.pictures.svg import Drawing, colours, shortened, text_width, wrapped
from helix_df.plan.plan import Plan

WIDTH = 1120.0
MARGIN = 20.0
USE_BAR = 90.0
NUMBERS = 158.0
WIDEST_WIRE = 7.0
THINNEST_WIRE = 1.2


def plan_svg(plan: Plan) -> str:
    """The picture as an SVG document that needs nothing else; it follows the page's light or dark scheme."""
    return draw_plan(plan).done()


def draw_plan(plan: Plan) -> Drawing:
    """The picture, to be written as a document or into a page."""
    layout = lay_out(plan)
    frame = _Frame.of(layout)
    drawing = Drawing(WIDTH, frame.height, f"{layout.title}: {layout.facts[0]}")
    _head(drawing, layout, frame)
    _grid(drawing, layout, frame)
    for wire in sorted(layout.wires, key=lambda wire: (wire.binds, wire.flow)):
        _wire(drawing, frame, layout, wire)
    for i, row in enumerate(layout.rows):
        _bar(drawing, frame, i, row)
    for i, row in enumerate(layout.rows):
        _label(drawing, frame, i, row)
    _foot(drawing, frame)
    return drawing


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where things are, in pixels."""

    colour: dict[str, str]
    legend: tuple[tuple[tuple[str, float], ...], ...]
    footer: tuple[str, ...]
    num_layers: int
    rows: int
    row_height: float
    name_width: float
    left: float
    right: float
    top: float
    height: float

    @classmethod
    def of(cls, layout: Layout) -> _Frame:
        name_width = max([text_width(shortened(row.node), 12, bold=True) for row in layout.rows], default=0.0)
        gpu_width = max([text_width(shortened(row.gpu), 11) for row in layout.rows], default=0.0)
        left = MARGIN + name_width + 16 + gpu_width + 14
        right = WIDTH - MARGIN - NUMBERS - USE_BAR - 24
        legend = _legend(layout)
        row_height = 26.0 if len(layout.rows) <= 30 else 22.0
        top = 78 + 22 * len(legend) + 26
        footer = tuple(wrapped(_footer_words(layout), WIDTH - 2 * MARGIN, 11, ", "))
        height = top + row_height * len(layout.rows) + 28 + 18 * (1 + len(footer)) + MARGIN / 2
        count = len(layout.rows)
        return cls(
            colours(layout.gpus),
            legend,
            footer,
            layout.num_layers,
            count,
            row_height,
            name_width,
            left,
            right,
            top,
            height,
        )

    def x(self, layer: float) -> float:
        """Where a layer begins."""
        return self.left + (self.right - self.left) * layer / self.num_layers

    def y(self, row: int) -> float:
        """The middle of a row."""
        return self.top + self.row_height * (row + 0.5)

    @property
    def bottom(self) -> float:
        """Below the last row."""
        return self.top + self.row_height * self.rows

    @property
    def bar(self) -> float:
        """The height of a bar."""
        return self.row_height - 8


def _legend(layout: Layout) -> tuple[tuple[tuple[str, float], ...], ...]:
    """GPU types with their places, in lines."""
    lines: list[list[tuple[str, float]]] = [[]]
    x = MARGIN
    for gpu in layout.gpus:
        width = 18 + text_width(_legend_word(layout, gpu), 12) + 22
        if lines[-1] and x + width > WIDTH - MARGIN:
            lines.append([])
            x = MARGIN
        lines[-1].append((gpu, x))
        x += width
    return tuple(tuple(line) for line in lines)


def _legend_word(layout: Layout, gpu: str) -> str:
    return f"{sum(row.gpu == gpu for row in layout.rows)} × {shortened(gpu)}"


def _footer_words(layout: Layout) -> list[str]:
    names = [shortened(name) for name in layout.unused]
    return [f"not used: {names[0]}", *names[1:]] if names else []


def _head(drawing: Drawing, layout: Layout, frame: _Frame) -> None:
    drawing.text(MARGIN, 32, layout.title, "bold", 20)
    drawing.text(MARGIN, 54, " · ".join(layout.facts), "soft", size=13)
    for i, line in enumerate(frame.legend):
        y = 82 + 22 * i
        for gpu, x in line:
            drawing.add("rect", x=x, y=y - 11, width=12, height=12, rx=2, fill=frame.colour[gpu])
            drawing.text(x + 18, y, _legend_word(layout, gpu))


def _grid(drawing: Drawing, layout: Layout, frame: _Frame) -> None:
    for row in range(0, frame.rows, 2):
        drawing.add(
            "rect", "stripe", x=MARGIN / 2, y=frame.top + row * frame.row_height, width=WIDTH - MARGIN,
            height=frame.row_height,
        )  # fmt: skip
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 1000) if layout.num_layers / step <= 20)
    marks = [*range(0, layout.num_layers, step), layout.num_layers]
    if len(marks) > 2 and marks[-1] - marks[-2] < step * 0.6:
        del marks[-2]
    for mark in marks:
        x = frame.x(mark)
        drawing.line(x, frame.top - 4, x, frame.bottom + 4, "axis" if mark in (0, layout.num_layers) else "grid")
        for y in (frame.top - 9, frame.bottom + 18):
            drawing.text(x, y, str(mark), "soft", size=11, anchor="middle")
    drawing.text(frame.left - 14, frame.top - 9, "layer", "soft", size=11, anchor="end")
    drawing.text(frame.right + 24, frame.top - 9, "use", "soft", size=11)
    drawing.text(WIDTH - MARGIN, frame.top - 9, "flow / capacity, tokens/s", "soft", size=11, anchor="end")


def _bar(drawing: Drawing, frame: _Frame, place: int, row: PlanRow) -> None:
    """The layers a node holds; its colour is faint when nothing flows."""
    x, width = frame.x(row.layers.start), frame.x(row.layers.stop) - frame.x(row.layers.start)
    if row.flow <= 0:
        # Wires pass behind bars, also behind faint ones.
        drawing.add("rect", "page", x=x, y=frame.y(place) - frame.bar / 2, width=width, height=frame.bar, rx=3)
    bar = drawing.add(
        "rect", x=x + 0.75, y=frame.y(place) - frame.bar / 2, width=max(width - 1.5, 2), height=frame.bar, rx=3,
        fill=frame.colour[row.gpu],
    )  # fmt: skip
    bar.set("data-node", row.node)
    if row.flow <= 0:
        bar.set("opacity", "0.35")
    drawing.tip(
        bar, f"{row.node} ({row.gpu}) holds {row.layers}: {number(row.flow)} of {number(row.capacity)} tokens/s"
    )
    if row.binds:
        drawing.add(
            "rect", "wire binding", x=x - 1, y=frame.y(place) - frame.bar / 2 - 1.75, width=max(width, 2) + 2,
            height=frame.bar + 3.5, rx=4, style="stroke-width: 2; opacity: 1",
        )  # fmt: skip


def _wire(drawing: Drawing, frame: _Frame, layout: Layout, wire: Wire) -> None:
    """Traffic from the end of a bar to another row; both ends lie at the layer where it changes hands."""
    if wire.tail is None or wire.head is None:
        return
    down = 1 if wire.head > wire.tail else -1
    reach = down * (frame.bar / 2 - 2)
    x, y1, y2 = frame.x(wire.layer), frame.y(wire.tail) + reach, frame.y(wire.head) - reach
    # The longer the way the wider the bow, so that wires of one boundary can be told apart.
    bow = down * min(0.16 * max(abs(y2 - y1) - frame.row_height, 0.0), 46)
    thickness = max(THINNEST_WIRE, WIDEST_WIRE * wire.flow / layout.flow if layout.flow > 0 else 0.0)
    path = f"M {x:.1f} {y1:.1f} C {x + bow:.1f} {y1:.1f} {x + bow:.1f} {y2:.1f} {x:.1f} {y2:.1f}"
    line = drawing.add("path", "wire binding" if wire.binds else "wire", d=path, stroke_width=thickness)
    tail, head = layout.rows[wire.tail].node, layout.rows[wire.head].node
    drawing.tip(line, f"{tail} → {head} after layer {wire.layer}: {number(wire.flow)} tokens/s")


def _label(drawing: Drawing, frame: _Frame, place: int, row: PlanRow) -> None:
    y = frame.y(place) + 4
    drawing.text(MARGIN, y, shortened(row.node), "bold alarm" if row.binds else "bold")
    drawing.text(MARGIN + frame.name_width + 16, y, shortened(row.gpu), "soft", size=11)
    _range(drawing, frame, place, row)
    x = frame.right + 24
    drawing.add("rect", "empty", x=x, y=y - 9, width=USE_BAR, height=10, rx=2)
    if row.flow > 0:
        full = min(row.use, 1.0)
        drawing.add("rect", x=x, y=y - 9, width=USE_BAR * full, height=10, rx=2, fill=frame.colour[row.gpu])
    share = "idle" if row.flow <= 0 else f"{row.use:.0%}"
    drawing.text(x + USE_BAR + 42, y, share, "bold alarm" if row.binds else "soft" if row.flow <= 0 else "", 11, "end")
    numbers = f"{number(row.flow)} / {number(row.capacity)}"
    drawing.text(WIDTH - MARGIN, y, numbers, "soft" if row.flow <= 0 else "", 11, "end")


def _range(drawing: Drawing, frame: _Frame, place: int, row: PlanRow) -> None:
    """The range in the bar if it fits, else before it, or after it at the left edge."""
    label, y = f"{row.layers.start}–{row.layers.stop}", frame.y(place) + 4
    start, stop = frame.x(row.layers.start), frame.x(row.layers.stop)
    needed = text_width(label, 11) + 14
    if stop - start >= needed + 8:
        drawing.text((start + stop) / 2, y, label, "on" if row.flow > 0 else "soft", 11, "middle")
    elif start - frame.left >= needed:
        # Wires leave a bar at its right end, so its left is free.
        drawing.text(start - 9, y, label, "soft", 11, "end")
    else:
        drawing.text(stop + 9, y, label, "soft", 11)


def _foot(drawing: Drawing, frame: _Frame) -> None:
    y = frame.bottom + 42
    note = (
        "a wire is traffic that changes hands after a layer, as thick as its share of the flow; red is the bottleneck"
    )
    drawing.text(MARGIN, y, note, "soft", 11)
    for i, line in enumerate(frame.footer):
        drawing.text(MARGIN, y + 18 * (i + 1), line, "soft", 11)
