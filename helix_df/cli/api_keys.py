"""``helix-df api-keys``: the keys that clients of a job's API come in with."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class KeyAction(Enum):
    """What to do."""

    ADD = "add"
    LIST = "list"
    REMOVE = "remove"


def api_keys(
    action: Annotated[KeyAction, typer.Argument(help="Make a key, list all, or revoke one.")],
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Of the key, to add or remove.")] = None,
    file: Annotated[Path, typer.Option(help="The file of keys, as in the job's runtime.api_keys.")] = Path(
        "api-keys.json"
    ),
    max_in_flight: Annotated[int | None, typer.Option(min=1, help="Most requests of the key at once.")] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Most requests of the key in a minute.")
    ] = None,
) -> None:
    """Make, list and revoke API keys.

    A key is shown once, when it is made: the file holds only its hash. A job that runs notices changes within a second.
    """
    from helix_df.runtime.api.keys import add_key, read_keys, remove_key

    if action is KeyAction.LIST:
        _list(read_keys(file))
        return
    if name is None:
        raise typer.BadParameter(f"which key? `helix-df api-keys {action.value} NAME`")
    if action is KeyAction.REMOVE:
        remove_key(file, name)
        typer.echo(f"{name} may not come in any more", err=True)
        return
    typer.echo(add_key(file, name, max_in_flight=max_in_flight, requests_per_minute=requests_per_minute))
    typer.echo(f"this is the only time that the key {name} is shown; {file} has its hash", err=True)


def _list(keys: tuple[object, ...]) -> None:
    from datetime import UTC, datetime

    from helix_df.cli.console import output, print_trimmed
    from helix_df.cli.words import plain_table
    from helix_df.runtime.api.keys import ApiKey

    figures = ("in flight", "per minute")
    table = plain_table("key", "made", *figures, numbers=figures)
    for key in keys:
        assert isinstance(key, ApiKey)
        made = datetime.fromtimestamp(key.created, UTC).strftime("%Y-%m-%d %H:%M")
        table.add_row(key.name, made, str(key.max_in_flight or ""), str(key.requests_per_minute or ""))
    print_trimmed(output(), table)
