"""``helix-df scale``: what a job whose nodes come and go does, size by size and under a trace."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from helix_df.cli.simulate import TRACE_HELP

if TYPE_CHECKING:
    from rich.console import Console

    from helix_df.what_if.scaled_fleets import ScaleAnswer

_JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="A job file with a `scale` section.")]
_Trace = Annotated[
    str | None, typer.Option(metavar="TRACE", help=f"Simulate it under this trace, with arrivals: {TRACE_HELP}")
]
_Rate = Annotated[float | None, typer.Option(help="Mean requests/s that arrive.")]
_Seconds = Annotated[float, typer.Option(min=1, help="Length of the simulation, in simulated seconds.")]
_Start = Annotated[str, typer.Option(metavar="TIME", help="What workers take to load, once nodes are taken.")]
_Ttft = Annotated[
    str | None, typer.Option(metavar="TIME", help="A later first token is a miss; by default limits.ttft_p95, or 5s.")
]
_Seed = Annotated[int, typer.Option(min=0, help="Seed of the trace.")]
_AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]


def scale(
    job_file: _JobFile,
    trace: _Trace = None,
    rate: _Rate = None,
    seconds: _Seconds = 3600.0,
    start: _Start = "15s",
    ttft: _Ttft = None,
    seed: _Seed = 0,
    as_json: _AsJson = False,
) -> None:
    """Plan a job for each number of its nodes that come and go, and say what each serves.

    With --trace, simulate which sizes it would take when, and why, beside fleets of fixed sizes: goodput, hours of
    nodes, and requests whose first token came late.
    """
    from helix_df.cli.console import messages, output, print_json
    from helix_df.cli.option_values import time_limit
    from helix_df.cli.search import watched
    from helix_df.cli.speeds import tell_speeds
    from helix_df.load import load_job
    from helix_df.simulator.trace_names import find_trace
    from helix_df.what_if.scaled_fleets import compare_scale, plan_scale, scale_document

    job = load_job(job_file)
    requests = None if trace is None else find_trace(trace, seconds=seconds, rate=rate, seed=seed)
    start_s, ttft_s = time_limit(start, "--start"), time_limit(ttft, "--ttft")
    answer = watched(lambda watch: plan_scale(job, watch), messages())
    tell_speeds([job])
    if requests is not None and start_s is not None:
        answer = compare_scale(answer, requests, seconds=seconds, start_s=start_s, ttft_s=ttft_s)
    if as_json:
        print_json(scale_document(answer))
    else:
        _render(answer, output())


def _render(answer: ScaleAnswer, console: Console) -> None:
    from helix_df.cli.console import print_trimmed
    from helix_df.cli.words import number, plain_table, seconds

    sizes = plain_table("nodes that come and go", "tokens/s", "gap", "", numbers=("tokens/s", "gap"))
    for size, plan in answer.plans.items():
        sizes.add_row(str(size), number(plan.flow), f"{plan.gap:.1%}", "")
    for size, why in answer.lacking.items():
        sizes.add_row(str(size), "–", "–", why)
    print_trimmed(console, sizes)
    if answer.scaled is None:
        return
    console.print()
    for one in answer.scaled.sizes:
        if one.step is not None:
            console.print(f"{one.begun_s:>8.0f} s  {one.step}", soft_wrap=True)
    console.print()
    figures = ("goodput, tokens/s", "node-hours", "late", "TTFT p95, s")
    fleets = plain_table("fleet", *figures, numbers=figures)
    for row in answer.rows:
        fleets.add_row(
            row.name, number(row.goodput), f"{row.node_hours:.2f}", f"{row.missed:.1%}", seconds(row.ttft_p95_s)
        )
    print_trimmed(console, fleets)
