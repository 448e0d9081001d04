"""``helix-df down``: end jobs."""

from __future__ import annotations

from typing import Annotated

import typer


def down(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The job's name; not needed while only one runs.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="End every job that runs here.")] = False,
) -> None:
    """End a job and its workers.

    Ending a job that isn't running is no error.
    """
    from helix_df.runtime.jobs.directory import find_job, running_jobs
    from helix_df.runtime.jobs.lifecycle import stop_daemon

    if every and name is not None:
        raise typer.BadParameter("give a name or --all, not both")
    running = running_jobs()
    if name is None and not running:
        typer.echo("no job is running")
        return
    for job in running if every else [find_job(name)]:
        if stop_daemon(job):
            typer.echo(f"job {job.name} is down")
        else:
            typer.echo(f"job {job.name} is not running")
