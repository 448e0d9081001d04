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
    as_json: Annotated[bool, typer.Option("--json", help="Print what ended as JSON.")] = False,
) -> None:
    """End a job and its workers.

    Ending a job that isn't running is no error.
    """
    from helix_df.cli.console import print_json
    from helix_df.deployment import down as down_
    from helix_df.runtime.jobs.directory import find_job, running_jobs

    if every and name is not None:
        raise typer.BadParameter("give a name or --all, not both")
    running = running_jobs()
    if name is None and not running:
        print_json({"jobs": []}) if as_json else typer.echo("no job is running")
        return
    jobs = running if every else [find_job(name)]
    ended = {job.name: down_(job.name, grace_s=grace) for job in jobs}
    if as_json:
        print_json({"jobs": [{"name": job, "was_running": was} for job, was in ended.items()]})
        return
    for job, was in ended.items():
        typer.echo(f"job {job} is down" if was else f"job {job} is not running")
