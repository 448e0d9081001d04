"""``helix-df diff``: what changes from one plan to another."""

from __future__ import annotations

from typing import Annotated

import typer

from helix_df.cli.plans import SOURCE_HELP


def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", help=SOURCE_HELP)],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The plan to compare it with, given likewise.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Compare two plans: flow, layers that move, weights to load, and traffic that is re-routed."""
    from helix_df.cli.console import messages, output, print_json
    from helix_df.cli.diff_table import render_diff
    from helix_df.cli.plans import find_plan
    from helix_df.plan.diff import diff as compared
    from helix_df.plan.diff import diff_document

    found = compared(find_plan(old, messages()), find_plan(new, messages()))
    if as_json:
        print_json(diff_document(found))
        return
    render_diff(found, output())
