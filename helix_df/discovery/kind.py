"""What a cluster says of its hosts, and what a way to ask it is.

Owns these types. Doesn't know any cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class FoundHost:
    """A host of a cluster.

    Args:
        name: what the cluster calls it.
        device: what the cluster calls its accelerators, if it says.
        devices: how many of them.
        labels: what it is told apart by; a label without a value has the empty text.
        region: where it is, if the cluster says.
        why_not: why no worker could run there, such as ``down``.
    """

    name: str
    device: str | None = None
    devices: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    region: str | None = None
    why_not: str | None = None


@dataclass(frozen=True, slots=True)
class Discoverer:
    """A way to ask a cluster for its hosts.

    Args:
        find: the hosts, given an address or a context as a user writes it, or ``None`` for the cluster that this host
            belongs to. Raises a ``HelixError`` that says what is missing.
        place: what ``launchers.NAME.place`` says of such a host; given the label by which a user told its type of GPU,
            if so.
        launcher: the launcher that starts workers there, if there is one.
        by_node: whether that launcher's ``place`` goes by the names of nodes, too, and not by GPU types alone.
    """

    find: Callable[[str | None], tuple[FoundHost, ...]]
    place: Callable[[FoundHost, str | None], Any]
    launcher: str
    by_node: bool = False
