"""``helix-df show``: look at a plan file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def show(
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan file, as `helix-df plan` writes it.")],
    every_node: Annotated[bool, typer.Option("--all", help="List every node, however many.")] = False,
) -> None:
    """Check a plan file and show what it says."""
    from helix_df.cli.console import output
    from helix_df.cli.plan_table import render_plan
    from helix_df.errors import PlanError
    from helix_df.graph.compile import compile_problem
    from helix_df.plan import read_plan
    from helix_df.violations import violations

    plan = read_plan(plan_file)
    problem = compile_problem(plan.job)
    wrong = violations(plan, problem)
    if wrong:
        raise PlanError(
            "the plan doesn't fit its job",
            where=str(plan_file),
            found="; ".join(wrong[:5]),
            hint="make it again with `helix-df plan`",
        )
    render_plan(plan, problem, output(), every_node=every_node)
