"""``helix-df plan``: place a job's layers and write the plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from helix_df.plan.plan import Plan

_JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="The job file.")]
_Solver = Annotated[str | None, typer.Option(metavar="SOLVER", help="Plan with this solver instead of the job's.")]
_Objective = Annotated[str | None, typer.Option(help="flow, or goodput: the same as --solver goodput.")]
_Backend = Annotated[str | None, typer.Option(metavar="NAME", help="The solver's backend, such as highs.")]
_TimeLimit = Annotated[
    str | None, typer.Option(metavar="TIME", help="Stop with the best plan after this time, such as 30s.")
]
_Seed = Annotated[int | None, typer.Option(min=0, help="Seed of the solver's random choices.")]
_Near = Annotated[
    str | None, typer.Option(metavar="PLAN", help="Stay near this plan file or job: loading weights has a price.")
]
_MovePrice = Annotated[
    float, typer.Option(min=0, help="With --near: tokens/s that a plan must gain for each GiB of weights to load.")
]
_Out = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The plan file; by default NAME.plan.json in this folder.")
]
_Predict = Annotated[
    bool, typer.Option("--predict", help="Simulate the plan as `helix-df simulate` does; done for goodput anyway.")
]
_AsJson = Annotated[bool, typer.Option("--json", help="Print the plan as JSON; write a file only with --out.")]
_EveryNode = Annotated[bool, typer.Option("--all", help="List all nodes, also beyond 50.")]


def plan(
    job_file: _JobFile,
    solver: _Solver = None,
    objective: _Objective = None,
    backend: _Backend = None,
    time_limit: _TimeLimit = None,
    seed: _Seed = None,
    near: _Near = None,
    move_price: _MovePrice = 1.0,
    out: _Out = None,
    predict: _Predict = False,
    as_json: _AsJson = False,
    every_node: _EveryNode = False,
) -> None:
    """Place a job's layers and write the plan.

    Ctrl-C takes the best plan so far; a second one aborts.
    """
    from helix_df.cli.console import messages, output, print_json
    from helix_df.cli.option_values import time_limit as read_time_limit
    from helix_df.cli.plans import find_plan
    from helix_df.cli.search import watched
    from helix_df.cli.speeds import tell_speeds
    from helix_df.graph.compile import compile_problem
    from helix_df.load import load_job
    from helix_df.plan.diff import stay_near
    from helix_df.plan.plan import to_document, write_plan
    from helix_df.planning import make_plan

    job = load_job(job_file)
    limit_s = read_time_limit(time_limit)
    job = job.with_solver(**_overrides(job.solver.name, solver, objective, backend, limit_s, seed))
    with job.places.told():
        problem = compile_problem(job)
    running = find_plan(near, messages()) if near is not None else None
    staying = stay_near(running, job, move_price) if running is not None else None
    made = watched(lambda watch: make_plan(job, watch=watch, problem=problem, near=staying), messages())
    tell_speeds([job])
    path = out or (None if as_json else Path(f"{job.name}.plan.json"))
    if path is not None:
        _write(lambda: write_plan(made, path), path)
    if as_json:
        print_json(to_document(made))
        return
    from helix_df.cli.plan_table import render_plan

    render_plan(made, problem, output(), every_node=every_node)
    if predict or made.solver.name == "goodput":
        _show_prediction(made)
    if running is not None:
        from helix_df.cli.diff_table import render_diff
        from helix_df.plan.diff import diff

        output().print()
        render_diff(diff(running, made), output())
    messages().print(f"\nwritten to {path}", soft_wrap=True)


def _show_prediction(made: Plan) -> None:
    from helix_df.cli.console import messages, output
    from helix_df.cli.plan_table import render_prediction
    from helix_df.cli.simulate import watched_simulation
    from helix_df.simulator import predict

    with watched_simulation(messages()) as watch:
        outcome = predict(made, watch=watch)
    render_prediction(outcome, output())


def _overrides(
    current: str,
    solver: str | None,
    objective: str | None,
    backend: str | None,
    limit_s: float | None,
    seed: int | None,
) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    name = _solver_name(current, solver, objective)
    if name != current:
        # What the job says about its own solver means nothing to another one.
        changes |= {"name": name, "backend": None, "options": {}}
    if backend is not None:
        changes["backend"] = backend
    if seed is not None:
        changes["seed"] = seed
    if limit_s is not None:
        changes["time_limit"] = limit_s
    return changes


def _solver_name(current: str, solver: str | None, objective: str | None) -> str:
    """Who is to plan: ``--objective goodput`` asks for the solver goodput, ``flow`` for any other."""
    from helix_df.errors import SpecError

    if objective not in (None, "flow", "goodput"):
        raise SpecError(
            "there is no such objective", where="--objective", found=repr(objective), expected="flow or goodput"
        )
    for_goodput = objective == "goodput"
    if solver is None:
        if objective is None or for_goodput == (current == "goodput"):
            return current
        return "goodput" if for_goodput else "auto"
    if for_goodput and solver == "auto":
        return "goodput"
    if objective is not None and for_goodput != (solver == "goodput"):
        raise SpecError(
            "the two ask for different solvers", where="--objective", found=f"--solver {solver} --objective {objective}"
        )
    return solver


def _write(write: Any, path: Path) -> None:
    from helix_df.errors import PlanError

    try:
        write()
    except OSError as error:
        raise PlanError("the plan file can't be written", where=str(path), found=error.strerror) from error
