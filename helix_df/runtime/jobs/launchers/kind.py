"""What a launcher is to a job before it starts anything: its options, what it needs, and how one is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helix_df.runtime.launcher import Launcher
from helix_df.spec.nodes import Node
from helix_df.spec.section import Section

if TYPE_CHECKING:  # a job is checked where nothing can be sent
    from helix_df.runtime.jobs.fork_server import ForkServer
    from helix_df.runtime.jobs.job_keys import JobKeys


@dataclass(frozen=True, slots=True)
class LaunchSite:
    """The coordinator that a launcher starts workers for.

    ``nodes`` are those of its plan that the launcher is to start, as the job declares them. ``keys`` are the job's, of
    which ``key_file`` has what workers on other hosts need; None where the job has no folder. ``supervisor`` is the
    process that gets the children of a coordinator which dies, if any, and ``forks`` what processes of this machine
    that serve can be forked from, if there is one.
    """

    nodes: Mapping[str, Node]
    keys: JobKeys = field(repr=False)
    key_file: Path | None = None
    supervisor: int | None = None
    forks: ForkServer | None = None


class NoOptions(Section):
    """Of a launcher that has nothing to say about it."""


def _is_fine(_nodes: Mapping[str, Node], _options: Any) -> None:
    """Nothing is needed."""


@dataclass(frozen=True, slots=True)
class LauncherKind:
    """Of launchers of one name.

    Args:
        make: a launcher for a coordinator, given the job's options for it; one serves all its nodes.
        options: the section under ``launchers.NAME`` of a job, frozen and closed to unknown keys.
        check: raises a ``SpecError`` that names what is missing, if these nodes of a job can't be started; told at
            ``validate``, so it may look at the job and at this machine, and no further.
        forks: whether it makes use of ``LaunchSite.forks``.
    """

    make: Callable[[LaunchSite, Any], Launcher]
    options: type[Section] = NoOptions
    check: Callable[[Mapping[str, Node], Any], None] = _is_fine
    forks: bool = False
