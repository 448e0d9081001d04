"""``helix-df top``: a running job's state, live."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from helix_df.runtime.requests import JobStatus


def top(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The job's name; not needed while only one runs.")
    ] = None,
    every: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="Look again after so long.")] = 1.0,
    times: Annotated[int | None, typer.Option(min=1, help="Look so many times; until Ctrl-C by default.")] = None,
) -> None:
    """Watch a running job: its nodes, and the tokens a second on every link beside what the plan sends there."""
    from itertools import count

    from rich.live import Live

    from helix_df import deployment
    from helix_df.cli.console import output

    before: tuple[JobStatus, float] | None = None
    console = output()
    with Live(console=console, auto_refresh=False, screen=console.is_terminal and times is None) as live:
        for look in count(1):
            status, now_s = deployment.status(name), time.monotonic()
            seconds = 0.0 if before is None else now_s - before[1]
            live.update(_frame(status, None if before is None else before[0], seconds), refresh=True)
            before = status, now_s
            if look == times:
                return
            time.sleep(every)


def tokens_per_s(now: int, before: int | None, seconds: float) -> float:
    """Between two looks; 0 at the first, and where a coordinator that was started again counts from nothing."""
    return 0.0 if before is None or seconds <= 0 else max(0, now - before) / seconds


def _frame(status: JobStatus, before: JobStatus | None, seconds: float) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from helix_df.cli.status import nodes_table

    generated = tokens_per_s(status.generated_tokens, None if before is None else before.generated_tokens, seconds)
    words = (
        f"job {status.name} is {status.state} · {generated:,.1f} tokens/s generated · {status.running} running, "
        f"{status.waiting} waiting, {status.finished:,} finished, {status.failed:,} failed"
    )
    more = [Text(line) for line in (status.detail, status.change, status.replanned) if line]
    return Group(Text(words), *more, Text(), nodes_table(status), Text(), _hops_table(status, before, seconds))


def _hops_table(status: JobStatus, before: JobStatus | None, seconds: float) -> Table:
    from helix_df.cli.words import plain_table
    from helix_df.runtime.overview import hop_rows

    figures = ("tokens/s", "planned", "running")
    table = plain_table("from", "to", *figures, numbers=figures)
    cut = frozenset(status.cut_hops)
    former = {} if before is None else {(row.tail, row.head): row for row in hop_rows(before.hops, cut)}
    for hop in hop_rows(status.hops, cut):
        was = former.get((hop.tail, hop.head))
        now = tokens_per_s(hop.tokens, None if was is None else was.tokens, seconds)
        planned = f"{hop.planned_tokens_per_s:,.1f}" if hop.planned_tokens_per_s else "spare"
        head = f"{hop.head}, cut" if hop.cut else hop.head
        table.add_row(hop.tail, head, f"{now:,.1f}", planned, f"{hop.running:,}")
    return table
