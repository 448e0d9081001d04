"""``helix-df show``: look at a plan file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def show(
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan file, as `helix-df plan` writes it.")],
    every_node: Annotated[bool, typer.Option("--all", help="List all nodes, also beyond 50.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Check a plan file and show what it says."""
    from helix_df.cli.console import output, print_json
    from helix_df.cli.plan_table import render_plan
    from helix_df.graph.compile import compile_problem
    from helix_df.plan.plan import read_plan, to_document
    from helix_df.plan.violations import require_valid

    plan = read_plan(plan_file)
    problem = compile_problem(plan.job)
    require_valid(plan, str(plan_file), problem)
    if as_json:
        print_json(to_document(plan))
        return
    render_plan(plan, problem, output(), every_node=every_node)
