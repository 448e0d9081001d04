"""``helix-df nodes``: nodes join a running job, and leave it."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from helix_df.spec.job import Job


class NodesAction(Enum):
    """What to do."""

    ADD = "add"
    REMOVE = "remove"
    DRAIN = "drain"
    UNDRAIN = "undrain"


def nodes(
    action: Annotated[NodesAction, typer.Argument(help="What to do.")],
    what: Annotated[
        list[str],
        typer.Argument(metavar="FILE | NODE…", help="add: a file with nodes (gpus, links), as in a job; else nodes."),
    ],
    name: Annotated[
        str | None, typer.Option("--job", metavar="NAME", help="The job's name; not needed while only one runs.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Stay until it is done.")] = True,
) -> None:
    """Add nodes to a running job, remove some, or send them no new requests, while it serves.

    With other nodes the job is planned anew near the plan that runs, and what changes is shown; nothing that was asked
    is lost or waits. A node that is removed goes once nothing runs there any more. The job file stays as it is: what is
    to last has to be written there, too.
    """
    from helix_df import deployment
    from helix_df.cli.apply import change_running
    from helix_df.cli.console import messages, output

    match action:
        case NodesAction.DRAIN | NodesAction.UNDRAIN:
            undo = action is NodesAction.UNDRAIN
            for node in what:
                deployment.drain(node, name, undo=undo, wait=False)
            for node in what if wait and not undo else ():
                deployment.drain(node, name)
            output().print(f"{', '.join(what)}: {'gets requests again' if undo else 'drained'}", soft_wrap=True)
        case NodesAction.ADD | NodesAction.REMOVE:
            job = _with_all(what, name) if action is NodesAction.ADD else deployment.without_nodes(what, name)
            change_running(job, wait, messages(), output())


def _with_all(files: list[str], name: str | None) -> Job:
    from helix_df import deployment

    if len(files) > 1:
        raise typer.BadParameter("one file at a time; files include others")
    return deployment.with_nodes(files[0], name)
