"""``helix-df steps``: what the launcher ``slurm`` runs in its allocation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def steps(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of the exchange with the launcher.")],
    command: Annotated[
        str, typer.Option(metavar="COMMAND", help="How helix-df is called on the hosts, as a shell reads it.")
    ] = "helix-df",
) -> None:
    """Run the workers of a job as steps of the Slurm allocation that this is called in; for the launcher `slurm`."""
    from helix_df.runtime.jobs.steps import run_steps

    run_steps(folder, command)
