"""A plan in a terminal: a row a node, its layers as a bar, its use beside it.

Owns the layout of characters. Needs no colour to be read.
"""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from helix_df.layers import LayerRange
from helix_df.pictures.layout import Layout, PlanRow, lay_out, number
from helix_df.plan.plan import Plan

STYLES = ("blue", "yellow", "green", "magenta", "cyan", "bright_blue", "bright_green", "bright_magenta", "bright_cyan")
NARROWEST_BAR = 16
MAX_NAME = 20


def plan_text(plan: Plan, width: int) -> RenderableType:
    """The picture for a terminal of ``width`` columns."""
    layout = lay_out(plan)
    styles = {gpu: STYLES[i % len(STYLES)] for i, gpu in enumerate(layout.gpus)}
    parts: list[RenderableType] = [
        Text(layout.title, style="bold"),
        *(Text(fact, overflow="fold") for fact in layout.facts[:1]),
        Text(" · ".join(layout.facts[1:]), style="dim", overflow="fold"),
        Text(),
        _table(layout, styles, width),
    ]
    if any(row.binds for row in layout.rows):
        parts += [Text(), Text("◀ the bottleneck", style="red")]
    if layout.unused:
        parts.append(Text(f"not used: {', '.join(layout.unused)}", style="dim", overflow="fold"))
    return Group(*parts)


def _table(layout: Layout, styles: dict[str, str], width: int) -> Table:
    shares = [_share(row) for row in layout.rows]
    flows = [number(row.flow) for row in layout.rows]
    names = min(MAX_NAME, max([len(row.node) for row in layout.rows] + [4]))
    gpus = min(MAX_NAME, max([len(gpu) for gpu in layout.gpus] + [3]))
    taken = names + gpus + max([len(text) for text in [*shares, "use"]]) + max([len(text) for text in [*flows, "flow"]])
    cells = max(NARROWEST_BAR, width - taken - 4 * 2)
    if cells >= layout.num_layers:
        cells -= cells % layout.num_layers
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("node", max_width=names, no_wrap=True, overflow="ellipsis")
    table.add_column("GPU", max_width=gpus, no_wrap=True, overflow="ellipsis")
    table.add_column(_scale(layout.num_layers, cells), width=cells, no_wrap=True)
    table.add_column("use", no_wrap=True)
    table.add_column("flow", justify="right", no_wrap=True)
    for row, share, flow in zip(layout.rows, shares, flows, strict=True):
        style = "red bold" if row.binds else "dim" if row.flow <= 0 else ""
        table.add_row(
            Text(row.node, style=style),
            Text(row.gpu, style=styles[row.gpu]),
            bar(row.layers, layout.num_layers, cells, styles[row.gpu]),
            Text(share, style=style),
            Text(flow, style=style),
        )
    return table


def bar(layers: LayerRange, num_layers: int, cells: int, style: str = "") -> Text:
    """``cells`` characters for all layers, blocks for those held: at least one, and ranges that meet don't overlap."""
    start = min(round(layers.start * cells / num_layers), cells - 1)
    stop = max(round(layers.stop * cells / num_layers), start + 1)
    return Text.assemble(("·" * start, "dim"), ("█" * (stop - start), style), ("·" * (cells - stop), "dim"))


def _scale(num_layers: int, cells: int) -> str:
    left, right = "layer 0", str(num_layers)
    return left + " " * (cells - len(left) - len(right)) + right


def _share(row: PlanRow) -> str:
    return "idle" if row.flow <= 0 else f"{row.use:>4.0%}{' ◀' if row.binds else ''}"
