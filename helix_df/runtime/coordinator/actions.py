"""What the coordinator's machines want done. The shell does it; they never do."""

from __future__ import annotations

from dataclasses import dataclass

from helix_df.errors import HelixError
from helix_df.runtime.requests import TokenEvent
from helix_df.runtime.transitions import IllegalEventSeen
from helix_df.runtime.wire.messages import Send


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand a token, or the end, to whoever asked."""

    request: str
    event: TokenEvent


@dataclass(frozen=True, slots=True)
class Abort:
    """Tell whoever asked that there will be no (further) answer."""

    request: str
    error: HelixError


@dataclass(frozen=True, slots=True)
class AttemptOver:
    """Note that an attempt at a traced request is over, by which event."""

    attempt: str
    why: str


CoordinatorAction = Send | Deliver | Abort | IllegalEventSeen | AttemptOver
