"""Watching a job start: on a terminal what goes on and for how long, always moving; one line a change elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from helix_df.cli.words import plain_table
from helix_df.runtime.requests import JobStatus

STILL_S = 15.0
"""Seconds without a line after which those who can't see anything move are told how far it is."""


@contextmanager
def doing(what: str, console: Console) -> Iterator[None]:
    """Say on a terminal what is being done, for as long as the block lasts; nothing elsewhere."""
    if console.is_terminal:
        with Live(_Board(what), console=console, transient=True):
            yield
    else:
        yield


@contextmanager
def display(console: Console) -> Iterator[Callable[[JobStatus], None]]:
    """A function that shows the workers of a starting job, for as long as the block lasts."""
    if console.is_terminal:
        board = _Board("starting the coordinator")
        with Live(board, console=console, transient=True):
            yield board.show
    else:
        yield _StateLines(console).show


class _Board:
    """What is being done, for how long so far, and the workers once there are any. Drawn anew a few times a second."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._began_s = time.monotonic()
        self._status: JobStatus | None = None

    def show(self, status: JobStatus) -> None:
        """From now on it is this."""
        ready = sum(node.state == "ready" for node in status.nodes)
        self._what = f"{ready} of {len(status.nodes)} workers ready"
        self._status = status

    def __rich__(self) -> Group:
        line = Text(f"{time.monotonic() - self._began_s:5.1f} s  {self._what}")
        return Group(line) if self._status is None else Group(line, _table(self._status))


def _table(status: JobStatus) -> Table:
    table = plain_table("node", "layers", "state", "", "detail")
    for node in status.nodes:
        done = round(node.progress * 20)
        bar = "━" * done + "╺" * (20 - done)
        table.add_row(node.name, f"[{node.layers[0]}, {node.layers[1]})", node.state, bar, node.detail)
    return table


class _StateLines:
    """Prints a line whenever a worker's state changes, and one now and then where none does."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._last: dict[str, str] = {}
        self._began_s = self._said_s = clock()

    def show(self, status: JobStatus) -> None:
        """Print what is new."""
        for node in status.nodes:
            if self._last.get(node.name) != node.state:
                self._last[node.name] = node.state
                detail = f" ({node.detail})" if node.detail else ""
                self._say(f"{node.name}: {node.state}{detail}")
        now = self._clock()
        if now - self._said_s >= STILL_S:
            slowest = min(status.nodes, key=lambda node: (node.state == "ready", node.progress))
            ready = sum(node.state == "ready" for node in status.nodes)
            so_far = f"{ready} of {len(status.nodes)} workers ready"
            detail = f" {slowest.detail}" if slowest.detail else ""
            self._say(f"{now - self._began_s:.0f} s: {so_far}; {slowest.name}: {slowest.state}{detail}")

    def _say(self, line: str) -> None:
        self._said_s = self._clock()
        self._console.print(line, soft_wrap=True)
