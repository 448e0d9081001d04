"""``helix-df attend``: what a launcher runs on a host that it reaches by a connection."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer


def attend(
    job: Annotated[str, typer.Argument(metavar="JOB", help="Any name of the job's own.")],
    node: Annotated[str, typer.Argument(metavar="NODE", help="The node whose worker is wanted.")],
    arguments: Annotated[list[str], typer.Argument(metavar="WORKER…", help="`worker` and its options, after `--`.")],
    workers: Annotated[int, typer.Option(metavar="N", min=1, help="Workers of the job on this host.")] = 1,
    first_device: Annotated[int, typer.Option(metavar="N", min=0, help="The first accelerator that is its own.")] = 0,
    devices: Annotated[int, typer.Option(metavar="N", min=1, help="How many are its own.")] = 1,
) -> None:
    """Run a worker for a job of another host, which asks for it over a connection such as SSH; for launchers.

    The job's key comes on standard input, in one line, then `end` or `kill`. A worker that runs already is found. Its
    log goes to standard output. If the connection breaks, it lives on.
    """
    from helix_df.runtime.jobs.attended import Share, folder_of
    from helix_df.runtime.jobs.attended import attend as stay_with

    standard_input = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115  # read line by line, and asked if any is there
    share = Share(workers, first_device, devices)
    ending = stay_with(folder_of(job, node), arguments, share, standard_input, sys.stdout.buffer)
    if ending is not None:
        sys.stderr.write(json.dumps(asdict(ending)) + "\n")
