"""``helix-df bench``: what users of a running job get, beside what was predicted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from helix_df.cli.simulate import TRACE_HELP, arrives, write_json

if TYPE_CHECKING:
    import asyncio

    from rich.console import Console

    from helix_df.benchmarking import BenchReport, Load
    from helix_df.simulator.trace import Trace


def bench(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The job's name; not needed while only one runs.")
    ] = None,
    trace: Annotated[str, typer.Option(metavar="TRACE", help=TRACE_HELP)] = "azure",
    rate: Annotated[float | None, typer.Option(help="Mean requests/s that arrive.")] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Saturate: when a request ends, the next one starts.")
    ] = False,
    in_flight: Annotated[
        int | None,
        typer.Option("--in-flight", min=1, help="Saturate with this many requests in flight; 32 by default."),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Length of the window that is reported.")] = 60.0,
    warmup: Annotated[float, typer.Option(help="Seconds before the window.")] = 10.0,
    scale: Annotated[
        float | None,
        typer.Option(
            help="Factor on all prompt and output lengths; by default the largest up to 1 at which every request fits."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the trace and the prompts.")] = 0,
    repeat: Annotated[
        int | None,
        typer.Option(min=1, help="Prompts repeat a stretch of so many tokens, as texts in which drafts are found."),
    ] = None,
    predict: Annotated[bool, typer.Option(help="Simulate the job's plan with the same requests.")] = True,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the whole report as JSON; - prints it.")
    ] = None,
) -> None:
    """Replay a trace against a running job: throughput and latency, beside the simulator's prediction.

    Without --rate, --offline or --in-flight, a file's own arrival times count and any other trace saturates. Every
    request generates exactly the tokens that the trace says. Ctrl-C reports what is done so far.
    """
    import asyncio

    from helix_df.benchmarking import Load, report_document
    from helix_df.benchmarking.replay import IN_FLIGHT
    from helix_df.cli.bench_table import render_report
    from helix_df.cli.console import output
    from helix_df.simulator.trace_names import find_trace

    saturate = offline or in_flight is not None or not arrives(trace, rate)
    requests = find_trace(trace, seconds=warmup + seconds, rate=rate, offline=saturate, seed=seed)
    load = Load(seconds, warmup, in_flight or IN_FLIGHT, seed=seed, repeat=repeat)
    report = asyncio.run(_run(name, requests, load, scale, predict))
    if json_file is not None:
        write_json(report_document(report), json_file)
    if str(json_file) != "-":
        render_report(report, output())
    if report.replayed.gone is not None:
        raise report.replayed.gone


async def _run(name: str | None, trace: Trace, load: Load, scale: float | None, predict: bool) -> BenchReport:
    import asyncio

    from helix_df.benchmarking import bench
    from helix_df.cli.console import messages
    from helix_df.cli.words import plural

    console = messages()
    stop = asyncio.Event()
    told = False

    def waiting(shapes: int) -> None:
        nonlocal told
        if not told:
            console.print(f"waiting for the workers to compile {plural(shapes, 'more shape')}")
        told = True

    with _stopping(stop, console), _bar(console, load) as show:
        return await bench(name, trace, load, scale=scale, predict=predict, stop=stop, on_token=show, on_wait=waiting)


@contextmanager
def _stopping(stop: asyncio.Event, console: Console) -> Iterator[None]:
    """Ctrl-C sets ``stop``; a second one aborts."""
    import asyncio
    import signal
    import threading

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        console.print("stopping here; Ctrl-C again to abort")
        loop.remove_signal_handler(signal.SIGINT)
        stop.set()

    loop.add_signal_handler(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


class _ReplayProgress:
    """Moves a progress bar as tokens come."""

    def __init__(self, console: Console, load: Load) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (
            TextColumn("replaying"),
            BarColumn(),
            TextColumn("{task.completed:.0f} of {task.total:.0f} s, {task.fields[tokens]:,} tokens"),
        )
        self.progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self.progress.add_task("replaying", total=load.warmup_s + load.seconds, tokens=0)

    def __call__(self, now_s: float, tokens: int) -> None:
        self.progress.update(self._task, completed=now_s, tokens=tokens)


@contextmanager
def _bar(console: Console, load: Load) -> Iterator[_ReplayProgress]:
    bar = _ReplayProgress(console, load)
    with bar.progress:
        yield bar
