"""Numbers, lists and tables as every command prints them.

Owns digits, plurals and the look of tables. Doesn't know what is printed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table

MAX_NAMES = 8


def number(value: float) -> str:
    """Tokens/s with as many digits as they deserve."""
    return f"{value:,.1f}" if abs(value) < 10_000 else f"{value:,.0f}"


def gain(value: float, before: float) -> str:
    """``+27.3 (3.6%)``, or a dash for nothing."""
    if abs(value) < 0.05:
        return "–"
    share = f" ({value / before:+.1%})" if before > 0 else ""
    return f"{'+' if value > 0 else '-'}{number(abs(value))}{share}"


def names(items: Sequence[str], limit: int = MAX_NAMES) -> str:
    """The first few names, and how many more there are."""
    rest = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + rest


def count(items: Sequence[object], noun: str) -> str:
    """``1 node``, ``3 nodes``."""
    return plural(len(items), noun)


def plural(amount: int, noun: str) -> str:
    """``1 request``, ``1,024 requests``."""
    return f"{amount:,} {noun}" + ("s" if amount != 1 else "")


def seconds(value: float) -> str:
    """A latency in seconds without its unit, or a dash where there is none (NaN)."""
    return "–" if value != value else f"{value:.3f}" if value < 10 else f"{value:.1f}"


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
