"""Numbers and lists as the planning commands say them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table

MOST_NAMES = 8


def number(value: float) -> str:
    """Tokens/s with as many digits as they deserve."""
    return f"{value:,.1f}" if abs(value) < 10_000 else f"{value:,.0f}"


def gain(value: float, before: float) -> str:
    """``+27.3 (3.6%)``, or a dash for nothing."""
    if abs(value) < 0.05:
        return "–"
    share = f" ({value / before:+.1%})" if before > 0 else ""
    return f"{'+' if value > 0 else '−'}{number(abs(value))}{share}"


def names(items: Sequence[str], most: int = MOST_NAMES) -> str:
    """The first few names, and how many more there are."""
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + rest


def count(items: Sequence[object], noun: str) -> str:
    """``1 node``, ``3 nodes``."""
    return f"{len(items)} {noun}" + ("s" if len(items) != 1 else "")


def labelled(rows: Iterable[tuple[str, str]]) -> Table:
    """Labels in bold, texts beside them."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in rows:
        grid.add_row(label, text)
    return grid


def plain_table(*titles: str, numbers: Iterable[str] = ()) -> Table:
    """A table without lines; the columns in ``numbers`` stand at the right and don't wrap."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    right = set(numbers)
    for title in titles:
        if title in right:
            table.add_column(title, justify="right", no_wrap=True)
        else:
            table.add_column(title, overflow="fold")
    return table
