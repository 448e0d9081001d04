"""What launchers check of a job in the same words: what they need here, and nodes whose hosts they choose."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from helix_df.errors import SpecError
from helix_df.spec.nodes import Node


def missing(launcher: str, what: str, found: str, hint: str, nodes: Mapping[str, Node]) -> SpecError:
    """That a launcher can't start anything from this host."""
    return SpecError(
        f"the launcher {launcher} needs {what}",
        where=f"nodes.{next(iter(nodes))}.launcher",
        found=found,
        hint=hint,
    )


def require_placed(launcher: str, nodes: Mapping[str, Node]) -> None:
    """Make sure that a launcher may choose the host of each node.

    Raises:
        SpecError: for one whose address the job says.
    """
    for name, declared in nodes.items():
        if not declared.is_placed:
            raise SpecError(
                f"the launcher {launcher} chooses where a worker runs",
                where=f"nodes.{name}.address",
                found=declared.address,
                expected="address: auto",
                hint=f"launchers.{launcher}.place says what kind of host it needs",
            )


def require_known(launcher: str, field: str, said: Collection[str], known: Collection[str]) -> None:
    """Make sure that what the job says of nodes or GPU types is of some that the launcher starts.

    Raises:
        SpecError: for a name that isn't.
    """
    for name in said:
        if name not in known:
            raise SpecError(
                f"the launcher {launcher} starts nothing of this name",
                where=f"launchers.{launcher}.{field}.{name}",
                expected=f"one of {', '.join(sorted(known)[:12])}",
            )
