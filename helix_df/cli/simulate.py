"""``helix-df simulate``: what users of a plan would get."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from helix_df.cli.plans import SOURCE_HELP
from helix_df.rules.schedulers.registry import SCHEDULERS

if TYPE_CHECKING:
    from rich.console import Console

    from helix_df.graph.stage_timing import TimingChoice
    from helix_df.plan.plan import Plan
    from helix_df.simulator.options import NodeEvent, Options
    from helix_df.simulator.simulation import SimulationWatch
    from helix_df.spec.job import Job
    from helix_df.what_if import Simulated, Variant

TRACE_HELP = "azure, poisson:rate=2,input=750,output=240, bursts:…, diurnal:…, or a .csv or .jsonl file."


_Sources = Annotated[list[str], typer.Argument(metavar="PLAN_OR_JOB", help=f"{SOURCE_HELP} Several are compared.")]
_Trace = Annotated[str, typer.Option(metavar="TRACE", help=TRACE_HELP)]
_Rate = Annotated[float | None, typer.Option(help="Mean requests/s that arrive.")]
_Offline = Annotated[bool, typer.Option("--offline", help="Saturate: there is always a request waiting.")]
_Seconds = Annotated[float, typer.Option(help="Length of the window that is reported, in simulated seconds.")]
_Warmup = Annotated[float, typer.Option(help="Simulated seconds before the window.")]
_Scheduler = Annotated[
    str | None,
    typer.Option(metavar="NAME", help=f"{', '.join(SCHEDULERS)}; by default the job's."),
]
_InFlight = Annotated[
    int | None, typer.Option("--in-flight", min=1, help="Saturate with this many requests in flight.")
]
_Timing = Annotated[
    str | None,
    typer.Option(
        metavar="TIMING",
        help="measured: by the catalogue's curves where it has some; planned: by the job's own numbers; published: by "
        "the Helix paper's curves as they stand, the default of --rules artifact.",
    ),
]
_Rules = Annotated[
    str, typer.Option(metavar="RULES", help="runtime, or artifact: those of the Helix paper's simulator.")
]
_Fail = Annotated[
    list[str] | None, typer.Option(metavar="NODE@SECONDS", help="A node fails at that time; may be repeated.")
]
_Join = Annotated[
    list[str] | None, typer.Option(metavar="NODE@SECONDS", help="A node joins at that time; may be repeated.")
]
_Seed = Annotated[int, typer.Option(min=0, help="Seed of the trace and of random choices.")]
_AddNode = Annotated[
    list[str] | None,
    typer.Option(metavar="GPU[:COUNT][@REGION]", help="What if: with more nodes of a GPU type; may be repeated."),
]
_RemoveNode = Annotated[
    list[str] | None, typer.Option(metavar="NODE", help="What if: without this node; may be repeated.")
]
_Link = Annotated[
    list[str] | None,
    typer.Option(
        metavar="A-B=RATE[,TIME]", help="What if: another link, such as eu-us=1Gbps,50ms, of two regions or nodes."
    ),
]
_KeepPlacement = Annotated[bool, typer.Option("--keep-placement", help="What if, without re-planning: no layer moves.")]
_TimeLimit = Annotated[
    str | None, typer.Option(metavar="TIME", help="Of each re-planning, such as 10s; by default the job's.")
]
_Sweep = Annotated[
    str | None,
    typer.Option(
        metavar="WHAT=VALUES",
        help="Compare values: rate=1,2,4; likewise seed, scheduler, in-flight, link.eu-us or add-node.L4.",
    ),
]
_Html = Annotated[Path | None, typer.Option(metavar="FILE", help="Write a self-contained HTML page with charts.")]
_JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the whole outcome as JSON; - prints it.")
]
_EveryNode = Annotated[bool, typer.Option("--all", help="List all nodes and links.")]


def simulate(
    sources: _Sources,
    trace: _Trace = "azure",
    rate: _Rate = None,
    offline: _Offline = False,
    seconds: _Seconds = 600.0,
    warmup: _Warmup = 60.0,
    scheduler: _Scheduler = None,
    in_flight: _InFlight = None,
    timing: _Timing = None,
    rules: _Rules = "runtime",
    fail: _Fail = None,
    join: _Join = None,
    seed: _Seed = 0,
    add_node: _AddNode = None,
    remove_node: _RemoveNode = None,
    link: _Link = None,
    keep_placement: _KeepPlacement = False,
    time_limit: _TimeLimit = None,
    sweep: _Sweep = None,
    html: _Html = None,
    json_file: _JsonFile = None,
    every_node: _EveryNode = False,
) -> None:
    """Simulate a plan under a trace: throughput, latency, and how busy every node and link is.

    Without --rate or --offline, a file's own arrival times count and any other trace saturates. Ctrl-C reports what is
    done so far.

    Several plans, a sweep or a what-if (--add-node, --remove-node, --link) give a table with a row each. What-ifs are
    re-planned by the plan's own solver, unless --keep-placement; --rate alone never re-plans.
    """
    from helix_df.cli.console import messages
    from helix_df.cli.option_values import time_limit as limit_seconds
    from helix_df.cli.plans import named_plans
    from helix_df.cli.search import watched
    from helix_df.cli.speeds import tell_speeds
    from helix_df.simulator.trace_names import find_trace
    from helix_df.what_if import Variant, WhatIf, find_variants, replan

    events = _events(fail or [], up=False) + _events(join or [], up=True)
    given = {"rate": rate, "seed": seed, "scheduler": scheduler, "in_flight": in_flight}

    def make(name: str, plan: Plan, settings: dict[str, Any]) -> Variant:
        own = given | settings
        saturate = offline or own["in_flight"] is not None or not arrives(trace, own["rate"])
        requests = find_trace(trace, seconds=warmup + seconds, rate=own["rate"], offline=saturate, seed=own["seed"])
        changes = {"seconds": seconds, "warmup_s": warmup, "seed": own["seed"], "events": events}
        options = _options(rules, plan.served, own["scheduler"], saturate, own["in_flight"], changes)
        return Variant(name, plan, requests, options, timing_choice(timing, rules))

    limit_s = limit_seconds(time_limit)
    questions = WhatIf(add_node or (), remove_node or (), link or (), keep_placement, sweep, limit_s, rate)
    plans = named_plans(sources, messages())
    variants = find_variants(
        plans, questions, make, lambda plan, job: watched(lambda watch: replan(plan, job, watch), messages())
    )
    results = _simulated(variants)
    _report(results, len(variants) > 1, json_file, html, every_node)
    tell_speeds(one.plan.job for one in variants)


def timing_choice(text: str | None, rules: str) -> TimingChoice:
    """The timing that ``--timing`` asks for, or that goes with the rules.

    Raises:
        SimulationError: when there is none of that name.
    """
    from helix_df.errors import SimulationError
    from helix_df.graph.stage_timing import TIMINGS

    if text is None:
        return "published" if rules == "artifact" else "measured"
    for choice in TIMINGS:
        if text == choice:
            return choice
    raise SimulationError("there is no such timing", where="--timing", found=repr(text), expected=" or ".join(TIMINGS))


def arrives(trace: str, rate: float | None) -> bool:
    """Whether requests come at their own times."""
    from helix_df.simulator.trace_names import SHAPES

    from_file = trace.partition(":")[0] not in ("azure", *SHAPES)
    return from_file or rate is not None or "rate=" in trace or trace.partition(":")[2][:1].isdigit()


def _simulated(variants: list[Variant]) -> list[Simulated]:
    """One after the other; the one that Ctrl-C stops is the last."""
    from helix_df.cli.console import messages
    from helix_df.what_if import compare

    results: list[Simulated] = []
    for variant in variants:
        with watched_simulation(messages()) as watch:
            results += compare([variant], lambda _: watch)
        if results[-1].outcome.stopped:
            break
    return results


def _report(
    results: list[Simulated], several: bool, json_file: Path | None, html: Path | None, every_node: bool
) -> None:
    from helix_df.cli.console import messages, output
    from helix_df.simulator.outcome import to_document
    from helix_df.what_if.compare import comparison_document

    if json_file is not None:
        write_json(comparison_document(results) if several else to_document(results[0].outcome), json_file)
    if html is not None:
        from helix_df.pictures.simulation_page import simulation_page

        _write(simulation_page(results), html)
    if str(json_file) != "-":
        if several:
            from helix_df.cli.compare_table import render_comparison

            render_comparison(results, output())
        else:
            from helix_df.cli.simulate_table import render_outcome

            render_outcome(results[0].outcome, output(), every_node=every_node)
    if html is not None:
        messages().print(f"\nwritten to {html}", soft_wrap=True)


def _options(
    rules: str, job: Job, scheduler: str | None, saturate: bool, in_flight: int | None, changes: dict[str, Any]
) -> Options:
    from dataclasses import replace

    from helix_df.errors import SimulationError
    from helix_df.rules.schedulers.registry import get_scheduler
    from helix_df.simulator.artifact import artifact_baseline, artifact_offline, artifact_online
    from helix_df.simulator.options import options_of
    from helix_df.simulator.prediction import held_in_flight

    get_scheduler(scheduler or "flow")
    if rules == "runtime":
        options = options_of(job, scheduler=scheduler or job.runtime.scheduler, **changes)
        return options if in_flight is None else replace(held_in_flight(options, in_flight), max_queue=10**9)
    if rules != "artifact":
        raise SimulationError(
            "there are no such rules", where="--rules", found=repr(rules), expected="runtime, artifact"
        )
    if scheduler in (None, "flow", "flow-tokens"):
        own = changes | {"scheduler": scheduler or "flow-tokens"}
        return artifact_offline(**own) if saturate else artifact_online(**own)
    if saturate and in_flight is None:
        raise SimulationError(
            f"these rules let {scheduler} admit everything, so somebody must say how much",
            where="--in-flight",
            expected="a number of requests",
        )
    return artifact_baseline(scheduler, in_flight, **changes)


def _events(texts: list[str], *, up: bool) -> tuple[NodeEvent, ...]:
    from helix_df.errors import SimulationError
    from helix_df.simulator.options import NodeEvent

    events = []
    for text in texts:
        node, at, time = text.rpartition("@")
        try:
            seconds = float(time.removesuffix("s"))
        except ValueError:
            seconds = -1.0
        if not node or not at or not 0 <= seconds < float("inf"):
            where = "--join" if up else "--fail"
            raise SimulationError("this event can't be read", where=where, found=repr(text), expected="NODE@SECONDS")
        events.append(NodeEvent(seconds, node, up))
    return tuple(events)


def write_json(document: dict[str, Any], path: Path) -> None:
    """Write a document to a file, or to stdout for ``-``."""
    import json

    text = json.dumps(document, sort_keys=True, allow_nan=False) + "\n"
    if str(path) == "-":
        typer.echo(text, nl=False)
    else:
        _write(text, path)


def _write(text: str, path: Path) -> None:
    from helix_df.cli.console import write_file
    from helix_df.errors import SimulationError

    write_file(path, text, "the outcome", SimulationError)


class _Bar:
    """Moves a progress bar, and ends the run once Ctrl-C was heard."""

    def __init__(self, bar: Any, task: Any) -> None:
        self.stopped = False
        self._bar, self._task = bar, task

    def looks(self, now_s: float, end_s: float) -> bool:
        """Show how far the run is; ``False`` ends it."""
        self._bar.update(self._task, completed=min(now_s, end_s), total=end_s)
        return not self.stopped


@contextmanager
def watched_simulation(console: Console) -> Iterator[SimulationWatch]:
    """A progress bar on a terminal, and Ctrl-C that ends the run in good order; a second one aborts."""
    import signal
    import threading

    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("simulating"),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f} s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = _Bar(progress, progress.add_task("simulating", total=1.0))
        if threading.current_thread() is not threading.main_thread():
            yield bar
            return

        def stop(_signal: int, _frame: object) -> None:
            if bar.stopped:
                raise KeyboardInterrupt
            bar.stopped = True
            console.print("stopping here; Ctrl-C again to abort")

        before = signal.signal(signal.SIGINT, stop)
        try:
            yield bar
        finally:
            signal.signal(signal.SIGINT, before)
