"""``helix-df split``: one fleet as several jobs, each with a coordinator of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def split(
    job_file: Annotated[Path, typer.Argument(metavar="JOB", help="The job of the whole fleet.")],
    parts: Annotated[int, typer.Option("--parts", "-k", help="How many jobs it becomes.")] = 2,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write the jobs there, as NAME-1.yaml, NAME-2.yaml, …")
    ] = None,
) -> None:
    """Split a fleet into jobs with nodes of their own, for more traffic than one coordinator passes on.

    Nodes that are alike are dealt out evenly. Each job has the name of the whole with a number behind it, and the next
    port; a load balancer goes in front of them.
    """
    from helix_df.cli.console import messages, output, write_file
    from helix_df.cli.words import number, plain_table
    from helix_df.errors import SpecError
    from helix_df.load import load_job
    from helix_df.what_if.split import part_yaml, split_fleet

    found = split_fleet(load_job(job_file), parts)
    table = plain_table("job", "nodes", "port", "tokens/s")
    for plan in found.parts:
        job = plan.job
        table.add_row(job.name, str(len(job.nodes)), str(job.runtime.port or "any"), number(plan.flow))
    output().print(table)
    whole = found.whole.flow
    output().print(
        f"\ntogether {number(found.flow)} tokens/s; one job of all nodes is planned with {number(whole)}"
        f" ({found.flow / whole:.1%})",
        soft_wrap=True,
    )
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    for plan in found.parts:
        path = out / f"{plan.job.name}.yaml"
        write_file(path, part_yaml(plan.job), "the job", SpecError)
        messages().print(f"written to {path}", soft_wrap=True)
