"""``helix-df draw``: a plan as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from helix_df.cli.plans import SOURCE_HELP


def draw(
    source: Annotated[str, typer.Argument(metavar="PLAN_OR_JOB", help=SOURCE_HELP)],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write an SVG to this file instead of drawing in the terminal.")
    ] = None,
) -> None:
    """Draw a plan: the layers and the flow of each node, and the bottleneck."""
    from helix_df.cli.console import messages, output, print_trimmed, write_file
    from helix_df.cli.plans import find_plan
    from helix_df.errors import PlanError

    plan = find_plan(source, messages())
    if out is None:
        from helix_df.pictures.plan_text import plan_text

        console = output()
        print_trimmed(console, plan_text(plan, console.width))
        return
    from helix_df.pictures.plan_svg import plan_svg

    write_file(out, plan_svg(plan), "the picture", PlanError)
    messages().print(f"written to {out}", soft_wrap=True)
