"""``helix-df drain``: send no new requests to a node."""

from __future__ import annotations

from typing import Annotated

import typer


def drain(
    node: Annotated[str, typer.Argument(metavar="NODE", help="The node, as `helix-df status` names it.")],
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The job's name; not needed while only one runs.")
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Send it requests again.")] = False,
    wait: Annotated[bool, typer.Option(help="Stay until nothing runs there any more.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Send no new requests to a node of a running job; those that run there go on.

    Refused where nothing would be left that serves: make a plan without the node first (`limits.avoid`), and apply it.
    """
    from helix_df import deployment
    from helix_df.cli.console import print_json

    deployment.drain(node, name, undo=undo, wait=wait)
    if as_json:
        print_json({"node": node, "drained": not undo, "idle": wait and not undo})
    elif undo:
        typer.echo(f"{node} gets requests again")
    elif wait:
        typer.echo(f"{node} is drained: nothing runs there, and nothing new goes there")
    else:
        typer.echo(f"{node} gets no new requests")
