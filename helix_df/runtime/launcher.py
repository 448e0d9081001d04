"""Who starts workers: one small interface, so that processes, Ray or Kubernetes look the same to the coordinator."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

EVENTS_SUFFIX = ".events"
"""Of the files that hold what the machines of a job were told, ``coordinator`` and one a node."""


@dataclass(frozen=True, slots=True)
class WorkerOrder:
    """What a worker needs to join: its node's name, the coordinator's address, the host (and port) to listen on, the
    job's secret (which is never shown), the bytes of the largest frame that it is sent, how many devices it has,
    whether it gives way to workers that serve while it loads, and how its log looks. ``serves`` is what the job calls
    the node, where a worker beside another one has a name of its own; ``gpu`` is its GPU type, as the job calls it."""

    node: str
    coordinator: str
    listen: str
    token: str = field(repr=False)
    log_file: Path | None = None
    frame_limit: int | None = None
    devices: int = 1
    gives_way: bool = False
    serves: str = ""
    log_format: str = "text"
    gpu: str = ""

    @property
    def job_node(self) -> str:
        """The node as the job calls it."""
        return self.serves or self.node

    @property
    def events_file(self) -> Path | None:
        """Where the worker's events go, beside its log; nowhere if it has none."""
        return None if self.log_file is None else self.log_file.with_suffix(EVENTS_SUFFIX)


@dataclass(frozen=True, slots=True)
class Exit:
    """A worker that is gone, and its last words."""

    node: str
    words: str


class Launcher(Protocol):
    """Starts and stops the workers of some nodes."""

    def start(self, order: WorkerOrder) -> None:
        """Start a worker, or arrange that one will join."""
        ...

    def exits(self) -> list[Exit]:
        """Workers that ended since the last call, by themselves."""
        ...

    def command(self, order: WorkerOrder) -> str | None:
        """What a person has to run for this worker, if anything."""
        ...

    def stop(self, grace_s: float) -> None:
        """End what was started: wait ``grace_s`` seconds for it to go by itself, then make it. Nothing is left."""
        ...
