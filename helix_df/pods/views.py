"""What a pod's document says of the worker in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from helix_df.pods.objects import Json

HOPELESS = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "InvalidImageName",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    }
)
"""Why a container waits that starts only once somebody does something about it."""


@dataclass(frozen=True, slots=True)
class PodView:
    """A pod at a time: which it is, the container that runs, those that ended, the last one last, with their exit
    codes, and what it waits for: in a word, and in words for a user."""

    uid: str
    running: str | None = None
    ended: Mapping[str, int] = field(default_factory=dict)
    waits: str = ""
    words: str = ""
    leaving: bool = False

    @property
    def newest(self) -> str | None:
        """The container that runs, else the last one that did."""
        return self.running or next(reversed(tuple(self.ended)), None)

    @property
    def is_hopeless(self) -> bool:
        """Whether waiting alone won't help."""
        return self.waits in HOPELESS


def view(pod: Json) -> PodView:
    """What is to be known of a pod."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    container: Json = next(iter(status.get("containerStatuses") or ()), {})
    now, before = container.get("state") or {}, container.get("lastState") or {}
    ended = {}
    for state in (before, now):
        end: Mapping[str, Any] | None = state.get("terminated")
        if end is not None:
            ended[str(end.get("containerID") or "")] = int(end.get("exitCode", 1))
    waiting = now.get("waiting") or {}
    running = str(container.get("containerID") or "") if "running" in now else None
    waits, words = str(waiting.get("reason") or ""), str(waiting.get("message") or "")
    if not waits and running is None:
        waits, words = _unplaced(status)
    leaving = metadata.get("deletionTimestamp") is not None
    return PodView(str(metadata["uid"]), running, ended, waits, words, leaving)


def _unplaced(status: Mapping[str, Any]) -> tuple[str, str]:
    """Why no host has taken a pod, or why one has put it out."""
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return str(condition.get("reason") or ""), str(condition.get("message") or "")
    return str(status.get("reason") or status.get("phase") or ""), str(status.get("message") or "")
