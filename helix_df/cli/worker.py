"""``helix-df worker``: the process of one node."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from helix_df.errors import DeploymentError

if TYPE_CHECKING:
    from collections.abc import Callable

    from helix_df.runtime.worker.shell import StepEngine, Worker

THREADS = 16
"""That a worker needs at the least."""


def worker(
    join: Annotated[
        str, typer.Option(metavar="URL", help="Where the coordinator listens, such as curve://10.0.0.1:7000.")
    ],
    node: Annotated[str, typer.Option(metavar="NODE", help="The node of the job that this process serves.")],
    listen: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help="Where this worker listens for the others; with the host `auto`, at the address from which this host "
            "reaches the coordinator.",
        ),
    ] = "tcp://127.0.0.1:*",
    key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The job's key, as `helix-df keys` made it; `-` reads it from standard input. By default its secret "
            "is $HELIX_DF_TOKEN.",
        ),
    ] = None,
    frame_limit: Annotated[
        int | None,
        typer.Option(metavar="BYTES", min=2**20, help="Largest frame that is read; a larger one ends its connection."),
    ] = None,
    give_way: Annotated[
        bool, typer.Option("--give-way", help="Load at a lower priority, beside workers that serve on this host.")
    ] = False,
    ready_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Make this file once the worker serves, and remove it at the end."),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the log to this file, which is kept small; by default to stderr."),
    ] = None,
    log_format: Annotated[
        str, typer.Option(metavar="FORMAT", help="Of the log: text, or json for an object a line.")
    ] = "text",
    events: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Log the events that this worker receives to this file; by default in memory only."
        ),
    ] = None,
) -> None:
    """Serve one node of a running job; `helix-df status` shows the command to run on another host."""
    from helix_df.runtime.jobs.attended import FOLDER_VARIABLE, tidy_up
    from helix_df.runtime.priority import as_ever, giving_way
    from helix_df.runtime.threads import require_threads
    from helix_df.runtime.wire.own_host import at_own_host
    from helix_df.runtime.wire.transport import MOST_FRAME_BYTES, endpoint_keys
    from helix_df.runtime.wire.transport import listen as open_endpoint

    priority = giving_way if give_way else as_ever
    build_engine, worker_type = priority(_engine_and_worker)
    token, join = _secret(key_file, join)
    encrypted = _encrypted(join, listen)
    _log_to(log, log_format, node)
    attended = os.environ.get(FOLDER_VARIABLE)
    alive = _while_wanted()
    require_threads(THREADS)
    keys = endpoint_keys(None, token) if encrypted else None
    endpoint = open_endpoint(at_own_host(listen, join), frame_limit or MOST_FRAME_BYTES, keys)
    build = partial(build_engine, priority=priority)
    own = {"alive": alive, "events": events, "at_leisure": priority, "ready_file": ready_file}
    try:
        worker_type(node, endpoint, join, token, build, **own).run()
    finally:
        if attended is not None:
            tidy_up(Path(attended))  # whoever attends to this worker has its log open


def _log_to(path: Path | None, log_format: str, node: str) -> None:
    from helix_df.runtime.log_files import BoundedLog, write_output_to
    from helix_df.runtime.log_lines import LOG_FORMAT, LOG_FORMATS, formatter

    if log_format not in LOG_FORMATS:
        raise DeploymentError(
            "no log looks like that", where=LOG_FORMAT, found=log_format, expected=" or ".join(LOG_FORMATS)
        )

    handler = logging.StreamHandler() if path is None else BoundedLog(path)
    if path is not None:
        with contextlib.suppress(OSError):  # a log that can't be written is no reason not to serve
            write_output_to(path)
    handler.setFormatter(formatter(log_format, "worker", node))
    logging.basicConfig(handlers=[handler], level=logging.INFO)


def _while_wanted() -> Callable[[], bool]:
    """Whether somebody still wants this process, which a signal to end interrupts.

    A local worker goes with the coordinator that started it, or with whoever watches over that one.
    """
    from helix_df.runtime.jobs.launchers.local import PARENT_VARIABLE

    parents = tuple(map(int, filter(None, os.environ.get(PARENT_VARIABLE, "").split(","))))
    asked_to_end = False

    def end(_signal: int, _frame: object) -> None:
        nonlocal asked_to_end
        asked_to_end = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    return lambda: not asked_to_end and (not parents or os.getppid() in parents)


def _engine_and_worker() -> tuple[Callable[..., StepEngine], Callable[..., Worker]]:
    """What takes seconds to import."""
    from helix_df.runtime.worker.build import build_engine
    from helix_df.runtime.worker.shell import Worker

    return build_engine, Worker


def _secret(key_file: Path | None, join: str) -> tuple[str, str]:
    """The job's secret, and the coordinator's address with its public key where the file has that."""
    from helix_df.runtime.jobs.job_keys import read_worker_key
    from helix_df.runtime.jobs.launchers.local import TOKEN_VARIABLE
    from helix_df.runtime.wire.keys import with_key

    token = os.environ.pop(TOKEN_VARIABLE, None)  # whatever this process starts needs no secret
    if key_file is not None:
        key = read_worker_key(key_file)
        return key.token, with_key(join, key.coordinator) if key.coordinator else join
    if token is None:
        raise DeploymentError(
            "a worker needs the job's secret",
            where="--key-file",
            hint="`helix-df keys NAME`, on the coordinator's host, says which file to bring here",
        )
    return token, join


def _encrypted(join: str, listen: str) -> bool:
    """Whether both addresses are encrypted; they must agree, and the coordinator's have its public key."""
    from helix_df.runtime.wire.keys import ENCRYPTED, split_endpoint

    scheme, key, _ = split_endpoint(join)
    if scheme != split_endpoint(listen)[0]:
        raise DeploymentError(
            "one address is encrypted and the other isn't",
            where="--join and --listen",
            found=f"{join}, {listen}",
            expected=f"both {ENCRYPTED}://… or both tcp://…, as the coordinator has them",
        )
    if scheme == ENCRYPTED and key is None:
        raise DeploymentError(
            "the coordinator's public key is missing",
            where="--join",
            found=join,
            hint="--key-file with the job's key, or curve://PUBLIC@host:port",
        )
    return scheme == ENCRYPTED
