"""Watching a job start: a live table on a terminal, one line a change elsewhere."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table

from helix_df.errors import DeploymentError
from helix_df.runtime.client import fetch_status
from helix_df.runtime.jobs import DaemonRecord, JobDirectory
from helix_df.runtime.lifecycle import check_alive
from helix_df.runtime.requests import JobStatus

POLL_S = 0.2

Process = subprocess.Popen[bytes]


def until_serving(job: JobDirectory, process: Process) -> DaemonRecord:
    """Wait until the API is up.

    Raises:
        HelixError: when the daemon ended, as the error that ended it.
    """
    while True:
        record = check_alive(job, process)
        if record is not None and record.url is not None:
            return record
        time.sleep(POLL_S)


def until_ready(job: JobDirectory, process: Process, console: Console) -> DaemonRecord:
    """Wait until every worker is up, and show how far they are.

    Raises:
        HelixError: as ``until_serving``.
    """
    with _display(console) as show:
        while True:
            record = check_alive(job, process)
            if record is not None and record.url is not None:
                _look(record.url, show)
            if record is not None and record.state == "ready":
                return record
            time.sleep(POLL_S)


def _look(url: str, show: Callable[[JobStatus], None]) -> None:
    try:
        show(fetch_status(url))
    except DeploymentError:
        return  # whether it lives is not for the API to say


@contextmanager
def _display(console: Console) -> Iterator[Callable[[JobStatus], None]]:
    if console.is_terminal:
        with Live(console=console, transient=True) as live:
            yield lambda status: live.update(_table(status))
    else:
        yield _Lines(console).show


def _table(status: JobStatus) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("node", "layers", "state", "", "detail"):
        table.add_column(title, header_style="dim")
    for node in status.nodes:
        done = round(node.progress * 20)
        bar = "━" * done + "╺" * (20 - done)
        table.add_row(node.name, f"[{node.layers[0]}, {node.layers[1]})", node.state, bar, node.detail)
    return table


class _Lines:
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
