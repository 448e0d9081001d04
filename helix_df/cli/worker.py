"""``helix-df worker``: the process of one node."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from helix_df.errors import DeploymentError


def worker(
    join: Annotated[
        str, typer.Option(metavar="URL", help="Where the coordinator listens, such as tcp://10.0.0.1:7000.")
    ],
    node: Annotated[str, typer.Option(metavar="NODE", help="The node of the job that this process serves.")],
    listen: Annotated[
        str, typer.Option(metavar="URL", help="Where this worker listens for the others.")
    ] = "tcp://127.0.0.1:*",
    frame_limit: Annotated[
        int | None,
        typer.Option(metavar="BYTES", min=2**20, help="Largest frame that is read; a larger one ends its connection."),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the log to this file, which is kept small; by default to stderr."),
    ] = None,
    events: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Log the events that this worker receives to this file; by default in memory only."
        ),
    ] = None,
) -> None:
    """Serve one node of a running job; `helix-df status` shows the command to run on another host."""
    from helix_df.runtime.jobs.launchers.local import PARENT_VARIABLE, TOKEN_VARIABLE
    from helix_df.runtime.log_files import BoundedLog, write_output_to
    from helix_df.runtime.wire.transport import MOST_FRAME_BYTES
    from helix_df.runtime.wire.transport import listen as open_endpoint
    from helix_df.runtime.worker.build import build_engine
    from helix_df.runtime.worker.shell import Worker

    token = os.environ.get(TOKEN_VARIABLE)
    if token is None:
        raise DeploymentError(
            "a worker needs the job's secret",
            where=f"${TOKEN_VARIABLE}",
            hint="run the whole command that `helix-df status` shows",
        )
    handler = logging.StreamHandler() if log is None else BoundedLog(log)
    if log is not None:
        write_output_to(log)
    logging.basicConfig(handlers=[handler], level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    parents = tuple(map(int, filter(None, os.environ.get(PARENT_VARIABLE, "").split(","))))
    asked_to_end = False

    def end(_signal: int, _frame: object) -> None:
        nonlocal asked_to_end
        asked_to_end = True
        raise KeyboardInterrupt

    def alive() -> bool:
        # A local worker goes with the coordinator that started it, or with whoever watches over that one.
        return not asked_to_end and (not parents or os.getppid() in parents)

    signal.signal(signal.SIGTERM, end)
    endpoint = open_endpoint(listen, frame_limit or MOST_FRAME_BYTES)
    Worker(node, endpoint, join, token, build_engine, alive=alive, events=events).run()
