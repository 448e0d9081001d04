"""``helix-df keys``: the keys of a job whose nodes are on several hosts."""

from __future__ import annotations

from typing import Annotated

import typer


def keys(
    job: Annotated[str, typer.Argument(metavar="JOB", help="A job file, or a job's name.")],
    renew: Annotated[
        bool, typer.Option("--renew", help="Make new keys; those of before open nothing any more.")
    ] = False,
) -> None:
    """Make the keys of a job, if it has none yet, and say which file goes to the other hosts.

    Whoever has that file is of the job: it belongs to nobody but the user who starts the workers.
    """
    from pathlib import Path

    from helix_df.cli.console import output
    from helix_df.extras import explained_imports
    from helix_df.load import load_job

    with explained_imports():
        from helix_df.runtime.jobs.job_keys import make_keys

    name = load_job(Path(job)).name if Path(job).suffix in (".yaml", ".yml") else job
    made = make_keys(name, renew=renew)
    console = output()
    console.print(
        f"keys of job {name}: {made.worker_key.parent}\n\n"
        "Copy the job's key to each host on which you start a worker, such as\n\n"
        f"  scp {made.worker_key} HOST:\n\n"
        f"and start it there with `--key-file {made.worker_key.name}`, as `helix-df apply` and `helix-df status` say.",
        soft_wrap=True,
    )
