"""``helix-df show``: look at a plan file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def show(
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan file, as `helix-df plan` writes it.")],
    every_node: Annotated[bool, typer.Option("--all", help="List all nodes, also beyond 50.")] = False,
) -> None:
    """Check a plan file and show what it says."""
    from helix_df.cli.console import output
    from helix_df.cli.plan_table import render_plan
    from helix_df.graph.compile import compile_problem
    from helix_df.plan.plan import read_plan
    from helix_df.plan.violations import require_valid

    plan = read_plan(plan_file)
    problem = compile_problem(plan.job)
    require_valid(plan, str(plan_file), problem)
    render_plan(plan, problem, output(), every_node=every_node)
