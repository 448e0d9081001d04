"""``helix-df down``: end jobs."""

from __future__ import annotations

from typing import Annotated

import typer


def down(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The job's name; not needed while only one runs.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="End every job that runs here.")] = False,
    grace: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="Let requests end that run or wait; new ones are refused at once."),
    ] = 0.0,
) -> None:
    """End a job and its workers.

    Ending a job that isn't running is no error.
    """
    from helix_df.deployment import down as down_
    from helix_df.runtime.jobs.directory import find_job, running_jobs

    if every and name is not None:
        raise typer.BadParameter("give a name or --all, not both")
    running = running_jobs()
    if name is None and not running:
        typer.echo("no job is running")
        return
    for job in running if every else [find_job(name)]:
        if down_(job.name, grace_s=grace):
            typer.echo(f"job {job.name} is down")
        else:
            typer.echo(f"job {job.name} is not running")
