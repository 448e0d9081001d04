"""Watching a job start: a live table on a terminal, one line a change elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table

from helix_df.cli.words import plain_table
from helix_df.runtime.requests import JobStatus


@contextmanager
def display(console: Console) -> Iterator[Callable[[JobStatus], None]]:
    """A function that shows the workers of a starting job, for as long as the block lasts."""
    if console.is_terminal:
        with Live(console=console, transient=True) as live:
            yield lambda status: live.update(_table(status))
    else:
        yield _StateLines(console).show


def _table(status: JobStatus) -> Table:
    table = plain_table("node", "layers", "state", "", "detail")
    for node in status.nodes:
        done = round(node.progress * 20)
        bar = "━" * done + "╺" * (20 - done)
        table.add_row(node.name, f"[{node.layers[0]}, {node.layers[1]})", node.state, bar, node.detail)
    return table


class _StateLines:
    """Prints a line whenever a worker's state changes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: dict[str, str] = {}

    def show(self, status: JobStatus) -> None:
        """Print what is new."""
        for node in status.nodes:
            if self._last.get(node.name) != node.state:
                self._last[node.name] = node.state
                detail = f" ({node.detail})" if node.detail else ""
                self._console.print(f"{node.name}: {node.state}{detail}", soft_wrap=True)
