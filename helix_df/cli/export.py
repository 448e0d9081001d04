"""``helix-df export``: a plan in the words of another serving system."""

from __future__ import annotations

from typing import Annotated

import typer

from helix_df.cli.plans import SOURCE_HELP


def export(
    source: Annotated[str, typer.Argument(metavar="PLAN_OR_JOB", help=SOURCE_HELP)],
    to: Annotated[str, typer.Option(metavar="TARGET", help="vllm, llama.cpp, parallax, kubernetes or helm.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print commands and notes as JSON.")] = False,
) -> None:
    """Write what runs a plan in vLLM, llama.cpp or Parallax, or itself on Kubernetes.

    A plan that the target can't run unchanged is refused, with the stages that are the reason.
    """
    from helix_df.cli.console import messages, print_json
    from helix_df.cli.plans import find_plan
    from helix_df.exporters.registry import export_plan

    exported = export_plan(find_plan(source, messages()), to)
    if as_json:
        from dataclasses import asdict

        print_json(asdict(exported))
        return
    typer.echo(exported.script(), nl=False)
