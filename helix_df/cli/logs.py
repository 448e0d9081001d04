"""``helix-df logs``: what a job's processes wrote."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from helix_df.runtime.jobs.directory import JobDirectory

POLL_S = 0.25


def logs(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="The job's name, running or not; not needed while only one runs."),
    ] = None,
    node: Annotated[
        str | None, typer.Option(metavar="NODE", help="Only this node's log, or that of `coordinator`.")
    ] = None,
    tail: Annotated[
        int, typer.Option(min=0, help="Lines of each log to start with; with --events, events in all (0: every one).")
    ] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print new lines until the job ends.")] = False,
    events: Annotated[
        bool, typer.Option("--events", help="Show the events that coordinator and workers received, prompts included.")
    ] = False,
    request: Annotated[
        str | None, typer.Option(metavar="ID", help="With --events: only those of this request.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --events: one complete JSON document per line.")
    ] = False,
) -> None:
    """Show the logs of a job's coordinator and local workers."""
    from helix_df.runtime.jobs.directory import find_job, last_words

    job = find_job(name)
    if events or request is not None or as_json:
        _show_events(job, node, request, tail, as_json)
        return
    wanted = _wanted(job, node)
    offsets = {log: job.log_path(log).stat().st_size for log in wanted}
    for log in wanted:
        _write(log, last_words(job.log_path(log), tail), alone=node is not None)
    while follow:
        running = job.is_running()
        for log in wanted if node is not None else _wanted(job, None):
            text, offsets[log] = _news(job.log_path(log), offsets.get(log, 0))
            _write(log, text, alone=node is not None)
        if not running:
            return
        time.sleep(POLL_S)


def _show_events(job: JobDirectory, node: str | None, request: str | None, tail: int, as_json: bool) -> None:
    from helix_df.cli.event_lines import event_lines
    from helix_df.errors import DeploymentError
    from helix_df.runtime.jobs.directory import event_names
    from helix_df.runtime.wire.event_log import read_events

    known = list(event_names(job))
    if not known:
        raise DeploymentError(
            f"job {job.name} has no log of events", hint="a job takes them down unless it says `event_log: false`"
        )
    names = _chosen(job, node, known, "log of events")
    for line in event_lines({name: read_events(job.events_path(name)) for name in names}, request, tail, as_json):
        typer.echo(line)


def _wanted(job: JobDirectory, node: str | None) -> list[str]:
    from helix_df.runtime.jobs.directory import log_names

    return _chosen(job, node, list(log_names(job)), "log")


def _chosen(job: JobDirectory, node: str | None, known: list[str], what: str) -> list[str]:
    from helix_df.errors import DeploymentError

    if node is None:
        return known
    if node not in known:
        raise DeploymentError(
            f"job {job.name} has no {what} of {node} here",
            expected=", ".join(known) or None,
            hint="workers on other hosts write where they were started",
        )
    return [node]


def _news(path: Path, offset: int) -> tuple[str, int]:
    """The whole lines after ``offset``, and the offset after them."""
    with path.open("rb") as file:
        if offset > path.stat().st_size:
            offset = 0  # what was here has been put aside
        file.seek(offset)
        lines, _, _ = file.read().rpartition(b"\n")
    return lines.decode("utf-8", errors="replace"), offset + len(lines) + bool(lines)


def _write(log: str, text: str, alone: bool) -> None:
    from helix_df.runtime.log_lines import in_words

    for line in text.splitlines():
        for words in in_words(line).splitlines() or [""]:
            typer.echo(words if alone else f"{log} | {words}")
