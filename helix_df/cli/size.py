"""``helix-df size``: the cheapest fleet of a job's offers that serves its rate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from helix_df.sizing import Effort, Sizing
    from helix_df.sizing.answer import JudgedBy
    from helix_df.spec.job import Job

_JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="A job file with offers and workload.rate.")]
_By = Annotated[
    str | None,
    typer.Option(
        metavar="WHAT",
        help="What serving means: flow, or simulation: the flow, and in simulation the tokens asked for, within the "
        "limits. By default simulation where the job limits latency or names the solver goodput.",
    ),
]
_Rate = Annotated[float | None, typer.Option(help="Requests/s to serve, instead of the job's workload.rate.")]
_TimeLimit = Annotated[
    str, typer.Option(metavar="TIME", help="Of the search, and of that of each GPU type alone, such as 30s.")
]
_Out = Annotated[Path | None, typer.Option(metavar="FILE", help="Write a job with the fleet's nodes.")]
_Plan = Annotated[Path | None, typer.Option("--plan", metavar="FILE", help="Write the fleet's plan, too.")]
_Plot = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write an SVG of cost against goodput; sizes lower and higher rates, too."),
]
_Lose = Annotated[int, typer.Option(min=0, help="What if: so many nodes of an offer go, as spot nodes do.")]
_AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]


def size(
    job_file: _JobFile,
    by: _By = None,
    rate: _Rate = None,
    time_limit: _TimeLimit = "2min",
    out: _Out = None,
    plan_file: _Plan = None,
    plot: _Plot = None,
    lose: _Lose = 3,
    as_json: _AsJson = False,
) -> None:
    """Find the cheapest fleet of a job's offers that serves its rate, with a lower bound on what any such fleet costs.

    The job's own nodes stay and cost nothing. Ctrl-C takes the cheapest fleet so far; a second one aborts.
    """
    from helix_df.cli.console import messages, output, print_json
    from helix_df.cli.option_values import duration
    from helix_df.cli.search import watched
    from helix_df.cli.size_table import render_sizing
    from helix_df.cli.speeds import tell_speeds
    from helix_df.load import load_job
    from helix_df.plan.plan import write_plan
    from helix_df.sizing import Effort, sizing_document
    from helix_df.sizing import size as sized

    job = _at_rate(load_job(job_file), rate)
    effort = Effort(time_limit_s=duration("--time-limit", time_limit))
    found = watched(lambda watch: sized(job, effort=effort, by=_judged_by(by), most_lost=lose, watch=watch), messages())
    tell_speeds([found.job])
    if as_json:
        print_json(sizing_document(found))
    else:
        render_sizing(found, output())
    if plan_file is not None:
        write_plan(found.plan, plan_file)
    if plot is not None:
        _draw(job, found, effort, plot)
    if out is not None:
        _write_job(found, out)


def _at_rate(job: Job, rate: float | None) -> Job:
    from helix_df.what_if import SetRate, changed

    return job if rate is None else changed(job, [SetRate(rate)])


def _judged_by(text: str | None) -> JudgedBy | None:
    """What ``--by`` says.

    Raises:
        SpecError: for anything else.
    """
    from helix_df.errors import SpecError

    match text:
        case None | "flow" | "simulation":
            return text
    raise SpecError("fleets aren't judged by this", where="--by", found=repr(text), expected="flow or simulation")


def _draw(job: Job, found: Sizing, effort: Effort, path: Path) -> None:
    from helix_df.cli.console import messages, write_file
    from helix_df.cli.search import watched
    from helix_df.errors import PlanError
    from helix_df.pictures.sizing_chart import sizing_svg
    from helix_df.sizing import cost_curve

    curve = watched(lambda watch: cost_curve(job, found, effort, watch), messages())
    write_file(path, sizing_svg(curve), "the picture", PlanError)
    messages().print(f"\nwritten to {path}", soft_wrap=True)


def _write_job(found: Sizing, path: Path) -> None:
    from helix_df.cli.console import messages, write_file
    from helix_df.errors import SpecError
    from helix_df.sizing import fleet_yaml

    write_file(path, fleet_yaml(found), "the job", SpecError)
    messages().print(f"\nwritten to {path}: helix-df plan {path}", soft_wrap=True)
