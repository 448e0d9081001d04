"""``helix-df explain``: why a plan has its flow, and what would raise it."""

from __future__ import annotations

from typing import Annotated

import typer

from helix_df.cli.plans import SOURCE_HELP


def explain(
    source: Annotated[str, typer.Argument(metavar="PLAN_OR_JOB", help=SOURCE_HELP)],
    solver: Annotated[
        str, typer.Option(metavar="SOLVER", help="The solver that re-plans with one more GPU of each type.")
    ] = "auto",
    budget: Annotated[
        str, typer.Option(metavar="TIME", help="For all its runs together, such as 30s; 0s leaves re-planning out.")
    ] = "10s",
    as_json: Annotated[bool, typer.Option("--json", help="Print the explanation as JSON.")] = False,
) -> None:
    """Explain a plan: its bottleneck, and what more GPUs or faster links would gain.

    Every gain is the exact max flow of the changed graph. Ctrl-C leaves out the re-planning that is still to be done.
    """
    from helix_df.cli.console import messages, output, print_json
    from helix_df.cli.explain_table import render_explanation
    from helix_df.cli.option_values import duration
    from helix_df.cli.plans import find_plan
    from helix_df.cli.search import watched
    from helix_df.explanation.explain import explain as explained
    from helix_df.explanation.explain import explanation_document

    seconds = duration("--budget", budget)
    plan = find_plan(source, messages())
    found = watched(lambda watch: explained(plan, solver=solver, budget_s=seconds, watch=watch), messages())
    if as_json:
        print_json(explanation_document(found))
        return
    render_explanation(found, output())
